# dinokit for a CPU: docker build -t dinokit . && docker run --rm -v "$PWD:/work" dinokit doctor
FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 DINOKIT_CACHE=/work/.cache
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE NOTICE /src/
COPY dinokit /src/dinokit
RUN pip install --no-cache-dir '/src[curate,fast,look,onnx,search,studio,tensorboard]' && rm -rf /src
WORKDIR /work
ENTRYPOINT ["python", "-m", "dinokit"]
CMD ["--help"]
