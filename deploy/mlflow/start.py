"""MLflow's server of the stack: makes the buckets that are missing, then becomes the server.

Every secret stays in the environment: psycopg2 reads PGHOST, PGUSER and PGPASSWORD, boto3 reads AWS_*. Clients send
artifacts to the server (MLflow's default), and only the server holds S3's keys.
"""

import os
import sys
import time

import boto3
from botocore.exceptions import BotoCoreError, ClientError

BUCKETS = "mlflow", "dvc"
TRIES = 12  # five seconds apart: S3 answers before its volumes can be written


def make_buckets() -> None:
    """Make the buckets that are not there."""
    s3 = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    known = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in known:
            s3.create_bucket(Bucket=name)


def main() -> None:
    """Make the buckets and become the server."""
    for left in reversed(range(TRIES)):
        try:
            make_buckets()
            break
        except (BotoCoreError, ClientError) as error:
            if not left:
                sys.exit(f"S3 at {os.environ['MLFLOW_S3_ENDPOINT_URL']} does not take buckets: {error}")
            time.sleep(5)
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "2"]
    command += ["--host", os.environ.get("MLFLOW_HOST", "0.0.0.0"), "--port", os.environ.get("MLFLOW_PORT", "5000")]
    command += ["--backend-store-uri", "postgresql+psycopg2:///mlflow", "--artifacts-destination", "s3://mlflow"]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
