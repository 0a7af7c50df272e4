# The gateway, and what prepares a bundle for Triton (`jepack pull`, `jepack serve --repository-only`).
#   docker buildx imagetools inspect python:3.11-slim --format '{{.Manifest.Digest}}'
#   docker build -f deploy/gateway.Dockerfile --build-arg PYTHON_DIGEST=sha256:... -t jepack-gateway:0.1.0 .
# No default: an image whose base is not pinned is not built.
ARG PYTHON_DIGEST
FROM python:3.11-slim@${PYTHON_DIGEST} AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim@${PYTHON_DIGEST}
COPY constraints.txt /tmp/constraints.txt
COPY --from=wheel /wheels /tmp/wheels
# serve: also the embedded engine, for CPUs without Triton. The rest: the Hub, and the decoders of that engine.
RUN pip install --no-cache-dir -c /tmp/constraints.txt \
      "jepack[serve,hub,tiff,dicom,fits] @ file://$(ls /tmp/wheels/jepack-*.whl)" \
    && rm -r /tmp/wheels /tmp/constraints.txt \
    && install -d -o 1000 -g 1000 /work
# /work: where a fresh volume may be written by this user. Everything else is read only.
ENV HOME=/tmp XDG_STATE_HOME=/tmp/state PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_DISABLE_TELEMETRY=1
USER 1000:1000
EXPOSE 8080
ENTRYPOINT ["jepack"]
CMD ["--help"]
