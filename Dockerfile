# Two images of one repository:
#
#   docker build --target cpu .   Debian with the embedded Triton server behind nginx
#   docker build --target gpu .   NVIDIA's Triton image with the same models; builds TensorRT
#                                 engines at its first start
#
# Both contain the engines of models/ois-tiny.safetensors. For others, mount an engine folder and
# set OIS_ENGINES. docs/serving.md explains how to run the images and what was tested where.

# `docker/verify_cpu_target.sh` rebuilds this base with debootstrap. It is upgraded below.
ARG DEBIAN_TAG=bookworm-20250520-slim
# Releases before 26.07 have a deadlock in models that call other models.
ARG TRITON_RELEASE=26.08

# -- the package, built once ---------------------------------------------------------------
FROM debian:${DEBIAN_TAG} AS python
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/ois/bin:$PATH
# libpython3.11, because Debian's python3 is static but the server's Python models load the library.
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
COPY models models
RUN pip wheel --no-deps --wheel-dir /dist .

# -- the engines: torch stays in this stage ------------------------------------------------
FROM wheel AS engines
# An index with CPU builds of torch saves gigabytes:
#   --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
RUN pip install "$(echo /dist/*.whl)[cpu,export]"
WORKDIR /weights
COPY models models
RUN ois export models/ois-photo.safetensors --target cpu --output /engines/ois-photo-cpu \
 && chmod -R a+rX /engines

# The same network for TensorRT, for the target gpu only.
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
RUN pip install "$(echo /dist/*.whl)[cpu,serve]"
COPY --from=engines /engines /engines
COPY docker /opt/ois/docker
ENV OIS_ENGINES=/engines/ois-photo-cpu
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
# The major and minor version of the image's TensorRT libraries, such as 11.4. Empty: asks the package
# manager. The Python bindings must be of this minor version. PyPI has one or two builds of each minor
# version, rarely the image's own.
ARG TENSORRT_VERSION
# "plans" and not "tensorrt", because the image has TensorRT's libraries. "network" is torch, with which
# features stay on the GPU between encoder and clicks (OIS_FEATURE_DEVICE); it adds about 5 GB to the image.
# EXTRAS=cpu,plans leaves it out: then features are copied from shared memory to the GPU at every click.
# Everything is installed into the system's Python, in which Triton's Python backend runs models.
ARG EXTRAS=cpu,plans,network
RUN version="${TENSORRT_VERSION:-$(dpkg-query --show --showformat='${Version}\n' 'libnvinfer[0-9]*' \
      | head -n 1)}" \
 && minor="$(echo "$version" | cut -d - -f 1 | cut -d . -f 1,2)" \
 && pip install "$(echo /dist/*.whl)[$EXTRAS]" "tensorrt-cu13-bindings==$minor.*" \
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
# The first start builds engines, which takes minutes, and for a large network tens of minutes.
HEALTHCHECK --interval=30s --timeout=30s --start-period=3600s --retries=3 \
  CMD ["python3", "/opt/ois/docker/healthcheck.py"]
# NVIDIA's script sets up the libraries that let an older driver run this CUDA version.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "python3", "/opt/ois/docker/gpu_entrypoint.py"]
