"""A SageMaker endpoint as a target: boto3 signs the request, and reads its keys from where it always does.

Needs ``pip install boto3``. The container of this example answers as MLflow and scikit-learn containers do.
"""

import json

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from bench.remote.exchange import AttemptError

ENDPOINT = "my-endpoint"
# boto3 sends nothing again by itself: moatbench does, and counts what that may cost.
CLIENT = boto3.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))
VERDICTS = {
    "ThrottlingException": ("no", "retry"),
    "ModelNotReadyException": ("no", "retry"),
    "ServiceUnavailable": ("no", "retry"),
    "ModelError": ("unknown", "isolate"),
    "InternalFailure": ("unknown", "isolate"),
    "InternalDependencyException": ("unknown", "retry"),
}
"""Whether a failure is billed, and what to do; all others stop the purchase."""


def predict(rows):
    """Return the answers, a list of numbers for each row."""
    try:
        answer = CLIENT.invoke_endpoint(
            EndpointName=ENDPOINT,
            ContentType="application/json",
            Body=json.dumps({"instances": rows.tolist()}),
        )
    except ClientError as error:
        code = error.response["Error"]["Code"]
        billed, action = VERDICTS.get(code, ("no", "stop"))
        raise AttemptError(f"SageMaker answers {code}", billed=billed, action=action) from None
    return json.load(answer["Body"])["predictions"]
