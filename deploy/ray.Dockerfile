# Nodes of a Ray cluster that embed: Ray and jepack with the same versions on head and workers.
#   docker buildx imagetools inspect python:3.11-slim --format '{{.Manifest.Digest}}'
#   docker build -f deploy/ray.Dockerfile --build-arg PYTHON_DIGEST=sha256:... -t jepack-ray:0.1.0 .
# No default: an image whose base is not pinned is not built.
ARG PYTHON_DIGEST
FROM python:3.11-slim@${PYTHON_DIGEST} AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim@${PYTHON_DIGEST}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY constraints.txt /tmp/constraints.txt
COPY --from=wheel /wheels /tmp/wheels
# default: the dashboard, to which KubeRay hands a job. wget: KubeRay's own probes of a node call it.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir -c /tmp/constraints.txt "ray[default]" \
      "jepack[ray,hub,tiff,dicom,fits] @ file://$(ls /tmp/wheels/jepack-*.whl)" \
    && rm -r /tmp/wheels /tmp/constraints.txt \
    && install -d -o 1000 -g 1000 /work
ENV HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_DISABLE_TELEMETRY=1 RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
CMD ["ray", "--help"]
