# python -m wavflow.serve on a CPU: docker build -t wavflow . && docker run --rm -p 127.0.0.1:8000:8000 wavflow
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 wavflow
WORKDIR /home/wavflow/source
COPY constraints.txt ./
# torch for CPUs alone: without CUDA's libraries, which take 5 GB
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.11.0
COPY LICENSE README.md pyproject.toml setup.py ./
COPY conf conf
COPY wavflow wavflow
RUN pip install --no-cache-dir -c constraints.txt ".[serve]"

USER 1000
WORKDIR /home/wavflow
ENV NUMBA_CACHE_DIR=/home/wavflow/.cache/numba OMP_NUM_THREADS=1
# compiles the engines of the default models
RUN python -c "from wavflow.commands.serve import load; import torch; load(['lj-student', 'lj-teacher'], torch.device('cpu'))"
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["python", "-m", "wavflow.serve", "host=0.0.0.0"]
