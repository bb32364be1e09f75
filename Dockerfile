# The `ois` command on CPU, in process: no server.
# The image that serves clicks through Triton belongs to the serving work and will take this
# file's place; until then nothing here listens on a port.
FROM python:3.12-slim

WORKDIR /opt/ois
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY runtime runtime
COPY network network
COPY export export
COPY benchmarks benchmarks
COPY cli cli
RUN pip install --no-cache-dir ".[cpu]"

WORKDIR /work
ENTRYPOINT ["ois"]
