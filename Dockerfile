# syntax=docker/dockerfile:1
# Three images out of one file:
#   docker build --target hone .           serves and optimises, on the CPU
#   docker build --target hone-serving .   serves only: without torch, about a fifth of the size (`deploy/check-install` prints both)
#   docker build --target hone-cuda .      serves and optimises, on an NVIDIA GPU
# Every image installs by deploy/install; deploy/check-install runs the same steps without Docker.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG CUDA_IMAGE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04

FROM ${PYTHON_IMAGE} AS source
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY deploy/install deploy/install
COPY server server
COPY optimizers optimizers

FROM source AS build-serving
RUN deploy/install /opt/hone serving

FROM source AS build-hone
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN TORCH_INDEX=${TORCH_INDEX} deploy/install /opt/hone full

FROM ${CUDA_IMAGE} AS build-cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY --from=source /source .
RUN deploy/install /opt/hone cuda

FROM ${PYTHON_IMAGE} AS base
RUN useradd --system --uid 10001 --create-home hone \
    && mkdir /models /state && chown hone /state
ENV PATH=/opt/hone/bin:$PATH PYTHONUNBUFFERED=1
USER hone
VOLUME ["/state"]
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["hone", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["hone"]
# The admin endpoint stays on the container's own loopback: docker exec CONTAINER hone models
CMD ["serve", "/models", "--state", "/state", "--host", "0.0.0.0"]

FROM base AS hone-serving
COPY --from=build-serving /opt/hone /opt/hone

FROM ${CUDA_IMAGE} AS hone-cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home hone \
    && mkdir /models /state && chown hone /state
COPY --from=build-cuda /opt/hone /opt/hone
ENV PATH=/opt/hone/bin:$PATH PYTHONUNBUFFERED=1
USER hone
VOLUME ["/state"]
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["hone", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["hone"]
CMD ["serve", "/models", "--state", "/state", "--host", "0.0.0.0"]

# Last, so that it is what a plain `docker build .` makes.
FROM base AS hone
COPY --from=build-hone /opt/hone /opt/hone
