# docker build -t histosynth .
# docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" histosynth \
#     segment slides --model m.safetensors -o out
#
# A smaller image without CUDA: --build-arg TORCH_INDEX_URL=<PyTorch's index of CPU wheels>
# With a GPU: docker run --gpus all ...
# Shut off: docker run --read-only --tmpfs /tmp --network none ...

# One base for both parts: the environment of the first is used in the last.
ARG BASE=python:3.12-slim

FROM $BASE AS needed
ARG TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/histosynth
ENV PATH=/opt/histosynth/bin:$PATH
# torch comes first, in its own layer: the layer is by far the largest and changes least.
RUN if [ -n "$TORCH_INDEX_URL" ]; then pip install --index-url "$TORCH_INDEX_URL" "torch>=2.6,<2.14"; else pip install "torch>=2.6,<2.14"; fi
WORKDIR /build
# The extras export (Parquet) and fast (OpenVINO) are inside.
COPY pyproject.toml ./
RUN python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; extras = p["optional-dependencies"]; print("\n".join(p["dependencies"] + extras["export"] + extras["fast"]))' > requirements.txt \
    && pip install -r requirements.txt

FROM needed AS package
COPY README.md LICENSE ./
COPY histocli ./histocli
RUN pip install --no-deps --target /opt/package .

FROM $BASE
# The package is a layer of its own, above what it needs, so that an edit changes only a few megabytes.
COPY --from=needed /opt/histosynth /opt/histosynth
COPY --from=package /opt/package /opt/package
# Any user may run the image (--user); nothing is written outside /data and /tmp.
ENV PATH=/opt/package/bin:/opt/histosynth/bin:$PATH PYTHONPATH=/opt/package PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
RUN useradd --uid 1000 --create-home histosynth && mkdir /data && chown histosynth /data
USER histosynth
WORKDIR /data
ENTRYPOINT ["histosynth"]
CMD ["--help"]
ARG VERSION="" REVISION="" SOURCE=""
LABEL org.opencontainers.image.title="histosynth" \
      org.opencontainers.image.description="From unlabelled H&E images to a nucleus segmenter for that tissue" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
