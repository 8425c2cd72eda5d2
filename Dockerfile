# The studio, or any command of masactrl, in a container.
#
#   docker build -t masactrl --build-arg TORCH_INDEX=URL .      URL: PyTorch's index of CPU builds
#   docker build -t masactrl --build-arg DEVICE=cuda .          with torch's usual build and CUDA
#   docker run -p 127.0.0.1:7860:7860 -v models:/models masactrl
#   docker run -v "$PWD:/work" masactrl generate "a cat standing" --to "a cat running" -o out
#
# docs/audiences/operator.md says what the volume, the user and the health check are for.

FROM python:3.12-slim AS build
ARG DEVICE=cpu
ARG TORCH_INDEX=""
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN if [ "$DEVICE" = cpu ] && [ -z "$TORCH_INDEX" ]; then \
        echo "Give PyTorch's index of CPU builds with --build-arg TORCH_INDEX=URL, or take" \
            "--build-arg DEVICE=cuda." >&2; exit 2; \
    fi; \
    python -m venv /opt/masactrl; \
    grep '^torch==' constraints.txt > torch.txt; \
    if [ "$DEVICE" = cpu ]; then \
        /opt/masactrl/bin/pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" \
            "$(cat torch.txt)+cpu"; \
    fi; \
    /opt/masactrl/bin/pip install --no-cache-dir --constraint constraints.txt '.[app,layout,lora,prompts,video]'; \
    /opt/masactrl/bin/pip check

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 masactrl \
    && install --directory --owner masactrl /models /work
COPY --from=build /opt/masactrl /opt/masactrl
# Models from the Hub are kept in the volume; idle threads sleep instead of spinning.
ENV PATH=/opt/masactrl/bin:$PATH \
    HF_HOME=/models \
    GRADIO_ANALYTICS_ENABLED=False \
    OMP_WAIT_POLICY=PASSIVE
USER 1000
WORKDIR /work
VOLUME ["/models"]
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/', timeout=5)"]
ENTRYPOINT ["masactrl"]
CMD ["app", "--host", "0.0.0.0", "--port", "7860", "--no-browser"]
