# Triton with the libraries of jepack's decoders, which run in its Python backend.
#   docker buildx imagetools inspect nvcr.io/nvidia/tritonserver:26.09-py3 --format '{{.Manifest.Digest}}'
#   docker build -f deploy/triton.Dockerfile --build-arg TRITON_DIGEST=sha256:... -t jepack-triton:0.1.0 .
# 26.09 or later: earlier releases lack security fixes of 2025 and 2026. No default digest, as beside it.
ARG TRITON_DIGEST
FROM nvcr.io/nvidia/tritonserver:26.09-py3@${TRITON_DIGEST}
COPY deploy/triton-requirements.txt /tmp/requirements.txt
# NumPy stays the one that this Triton was built with: another one is silently wrong in some releases.
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN python3 -m pip freeze | grep -i '^numpy==' > /tmp/numpy.txt \
    && python3 -m pip install --no-cache-dir --break-system-packages \
         -c /tmp/numpy.txt -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt /tmp/numpy.txt \
    && install -d -o 1000 -g 1000 /var/cache/jepack/tensorrt
ENV HOME=/tmp ORT_DISABLE_TELEMETRY=1 PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
EXPOSE 8001 8002
# What nobody needs is shut (docs/serving.md, "Ports"): a model that is loaded over the network is code that
# runs. Whoever starts it adds where gRPC listens.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "tritonserver", \
  "--model-repository=/work/repository", \
  "--model-control-mode=none", \
  "--disable-auto-complete-config", \
  "--strict-readiness=true", \
  "--exit-on-error=true", \
  "--exit-timeout-secs=30", \
  "--allow-http=false", \
  "--allow-sagemaker=false", \
  "--allow-vertex-ai=false", \
  "--grpc-port=8001", \
  "--metrics-address=0.0.0.0", \
  "--metrics-port=8002", \
  "--grpc-restricted-protocol=shared-memory,model-repository,trace,logging:X-Jepack-Nobody=no\nkey"]
CMD ["--grpc-address=127.0.0.1"]
