# Two images of one repository:
#
#   docker build --target cpu .   Debian, the embedded Triton server, nginx before it
#   docker build --target gpu .   NVIDIA's Triton image, the same models; builds TensorRT engines
#                                 at its first start
#
# Both bring the engines of models/ois-tiny.safetensors; mount others and set OIS_ENGINES.
# docs/serving.md says how to run them, and which parts were run where.

# What `docker/verify_cpu_target.sh` can rebuild with debootstrap; upgraded below.
ARG DEBIAN_TAG=bookworm-20250520-slim
# 26.07 is the first without the deadlock of models that call models.
ARG TRITON_RELEASE=26.08

# -- the package, built once ---------------------------------------------------------------
FROM debian:${DEBIAN_TAG} AS python
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/ois/bin:$PATH
# Debian's python3 is static; the server's Python models load libpython3.11.
RUN apt-get update \
 && apt-get upgrade --yes \
 && apt-get install --yes --no-install-recommends \
      ca-certificates libpython3.11 python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/ois

FROM python AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY runtime runtime
COPY network network
COPY export export
COPY benchmarks benchmarks
COPY cli cli
COPY triton_models triton_models
RUN pip wheel --no-deps --wheel-dir /dist .

# -- the engines: torch stays in this stage ------------------------------------------------
FROM wheel AS engines
# An index with CPU builds of torch saves gigabytes here:
#   --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
RUN pip install "$(echo /dist/*.whl)[export]"
WORKDIR /weights
COPY models models
RUN ois export models/ois-tiny.safetensors --target cpu --output /engines/ois-tiny-cpu \
 && chmod -R a+rX /engines

# The same network for TensorRT. Only the target gpu needs it.
FROM engines AS graphs
RUN ois export models/ois-tiny.safetensors --target tensorrt --precision fp16 \
      --output /graphs/ois-tiny-tensorrt-fp16 \
 && chmod -R a+rX /graphs

# -- cpu -----------------------------------------------------------------------------------
FROM python AS cpu
RUN apt-get update \
 && apt-get install --yes --no-install-recommends nginx \
 && rm -rf /var/lib/apt/lists/* /var/log/nginx \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin ois
COPY --from=wheel /dist /dist
RUN pip install "$(echo /dist/*.whl)[serve]"
COPY --from=engines /engines /engines
COPY docker /opt/ois/docker
ENV OIS_ENGINES=/engines/ois-tiny-cpu
USER 10001:10001
WORKDIR /tmp
# HTTP, gRPC, metrics
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=30s --start-period=120s --retries=3 \
  CMD ["/opt/ois/bin/python", "/opt/ois/docker/healthcheck.py"]
ENTRYPOINT ["/opt/ois/docker/cpu-entrypoint.sh"]

# -- gpu -----------------------------------------------------------------------------------
FROM nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3 AS gpu
ENV PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY --from=wheel /dist /dist
# TensorRT's Python bindings of exactly the version whose libraries the image has; empty: asks
# the package manager.
ARG TENSORRT_VERSION
# No torch: engines are built from graphs, and checked with ONNX Runtime. "tensorrt,network" brings it,
# for OIS_FEATURE_DEVICE. Into the system's Python, because that is the one in which the Python
# backend runs models.
ARG EXTRAS=tensorrt
RUN version="${TENSORRT_VERSION:-$(dpkg-query --show --showformat='${Version}\n' 'libnvinfer[0-9]*' \
      | head -n 1 | cut -d - -f 1)}" \
 && pip install "$(echo /dist/*.whl)[$EXTRAS]" "tensorrt-cu13-bindings==$version" \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin ois \
 && install --directory --owner=10001 --group=10001 /plans
COPY --from=graphs /graphs /graphs
COPY docker /opt/ois/docker
ENV OIS_ENGINES=/graphs/ois-tiny-tensorrt-fp16 \
    OIS_PLANS=/plans
USER 10001:10001
WORKDIR /tmp
VOLUME /plans
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
# The first start builds engines, for minutes; a large network for tens of them.
HEALTHCHECK --interval=30s --timeout=30s --start-period=3600s --retries=3 \
  CMD ["python3", "/opt/ois/docker/healthcheck.py"]
# NVIDIA's script first: it sets up the libraries that let an older driver run this CUDA.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "python3", "/opt/ois/docker/gpu_entrypoint.py"]
