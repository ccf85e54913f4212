"""params.yaml as frozen, typed, closed models: every parameter with its default, range and meaning.

    params = load_params()
    params.candidate("article_cnn").epochs

An unknown key, a wrong type or a value out of range is refused when the file is read; the error names the key's path.
params.yaml shows every parameter; a default here holds where an entry leaves one out.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pawprint.errors import PawprintError

SCHEMA_VERSION = 2  # of params.yaml; version 1 had no such key
TOGETHER = "+"  # between the names of networks that stand side by side
UNKNOWN = "unknown"  # the label of a picture that is unlike all training photographs; no class may have this name
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
_Model = TypeVar("_Model", bound=BaseModel)


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Preprocess(_Closed):
    """How a photograph becomes a square, and which photographs are rejected."""

    size: Annotated[int, Field(ge=224, le=512)] = 300  # pixels a side of the prepared photograph
    fit: Literal["squash", "letterbox", "crop"] = "squash"  # resize without, with, or by cutting to the aspect ratio
    quality: Annotated[int, Field(ge=1, le=100)] = 95  # JPEG quality of the prepared photograph
    max_pixels: Count = 100_000_000  # a photograph whose header claims more is rejected
    min_side: Count = 16  # pixels; a smaller photograph is rejected
    near_copy_bits: Annotated[int, Field(ge=0, le=8)] = 8  # of 144, in which near-copies differ at most; 0 is off
    min_class: Count = 10  # usable photographs of a class; fewer are refused before a training
    max_bad_share: Share = 0.05  # of rejected photographs; more fail the stage


class SplitShares(_Closed):
    """Shares of the three splits; they sum to one."""

    train: Share = 0.70
    validation: Share = 0.15
    test: Share = 0.15
    keep_test: bool = False  # photographs that the source had under `test` are the test split, and no others
    group: str = ""  # a regular expression over file names: what it captures (an animal, a burst) stays on one split

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-9 or min(self.train, self.test) == 0:
            raise ValueError("train, validation and test must sum to 1, train and test above 0")
        return self

    @field_validator("group")
    @classmethod
    def _compiles(cls, group: str) -> str:
        try:
            re.compile(group)
        except re.error as error:
            raise ValueError(f"no regular expression ({error})") from None
        return group


class Training(_Closed):
    """What holds for the training of every candidate."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bfloat16", "float16", "float32"] = "auto"  # auto: bfloat16 where the hardware has it
    deterministic: bool = True  # equal weights from equal inputs; on a GPU at some cost
    checkpoint_seconds: CountOrZero = 60  # between two checkpoints; each epoch has one anyway
    folds: Annotated[int, Field(ge=0, le=20)] = (
        5  # a head is trained so many times more, for predictions out of the fold; 0 is off
    )


class Candidate(_Closed):
    """One entry under `candidates`: an architecture and how it is trained."""

    architecture: str  # `pawprint models list`, timm/NAME of `pawprint models add`, or a list: side by side, one head
    train: Literal["all", "head", "finetune"] = "all"  # finetune: the head and the last `blocks` of the backbone
    blocks: Count = 3  # of a pretrained backbone, that finetune trains
    backbone_rate: Positive = 0.1  # learning rate of these blocks, as a share of the head's
    epochs: Count = 5
    batch_size: Count | Literal["auto"] = 128  # photographs a step; auto: 128, in parts where memory is short
    accumulate: Count = 1  # parts of a batch that go through the network one by one; batch norm sees each part alone
    optimizer: Literal["adam", "adamw", "sgd", "lbfgs"] = (
        "adam"  # lbfgs: of a head, solved in at most `epochs` iterations
    )
    learning_rate: Positive = 0.001
    epsilon: Positive = 1e-8  # of Adam and AdamW
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    weight_decay: NonNegative | Literal["auto"] = 0.0  # strength of the L2 penalty; auto: lbfgs chooses one
    clip_norm: NonNegative = 0.0  # largest norm of the gradient; 0 is off
    label_smoothing: Share = 0.0
    class_weights: Literal["none", "balanced"] = (
        "none"  # balanced: probabilities of a set with equally frequent classes
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the running average of weights; 0 is off
    early_stopping: CountOrZero = 0  # epochs without a better validation loss; 0 is off
    mixup: NonNegative = 0.0  # alpha of the beta distribution; 0 is off
    augment: Literal["none", "flip", "standard", "strong"] = "none"
    # sides of photographs while it trains, as shares of preprocess.size: in the first epochs and in the last; [] is off
    train_sizes: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    compile: bool = False  # torch.compile

    @field_validator("architecture", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        """A list becomes the one name that models and runs have: a+b."""
        several = isinstance(value, list | tuple) and len(value) > 1 and all(isinstance(one, str) for one in value)
        return TOGETHER.join(value) if several else value

    @model_validator(mode="after")
    def _lbfgs_solves_a_head(self) -> Self:
        if self.optimizer != "lbfgs":
            if self.weight_decay == "auto":
                raise ValueError("weight_decay: auto needs optimizer: lbfgs")
        elif self.train != "head" or self.mixup or self.ema or self.early_stopping or self.clip_norm:
            raise ValueError("optimizer: lbfgs needs train: head, without mixup, ema, early_stopping and clip_norm")
        return self

    @model_validator(mode="after")
    def _sizes_grow(self) -> Self:
        if sizes := self.train_sizes:
            if len(sizes) != 2 or not 0.2 <= sizes[0] <= sizes[1] <= 1:
                raise ValueError("train_sizes: give two shares from 0.2 to 1, the smaller first, e.g. [0.35, 0.8]")
            if self.train != "all":
                raise ValueError("train_sizes needs train: all")
        return self

    @property
    def trained_blocks(self) -> int | None:
        """Blocks of a pretrained backbone that are trained, beside the head; None: the whole network is trained."""
        return {"all": None, "head": 0, "finetune": self.blocks}[self.train]


class Range(_Closed):
    """Where a parameter may lie: from `low` to `high`, or one of `choices`."""

    model_config = ConfigDict(strict=False)  # YAML has lists, not tuples

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False  # as likely between 0.001 and 0.01 as between 0.01 and 0.1
    choices: tuple[bool | int | float | str, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.choices:
            if (self.low, self.high, self.log) != (None, None, False):
                raise ValueError("give `choices`, or `low` and `high`, not both")
        elif self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("give `choices`, or `low` and a larger `high`")
        elif self.log and self.low <= 0:
            raise ValueError("`log` needs `low` above 0")
        return self


class Sweep(_Closed):
    """Which parameters of a candidate `pawprint sweep` searches, and where."""

    candidate: str = ""
    trials: Count = 20  # in all, pruned ones too
    ranges: dict[str, Range] = {}

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := set(self.ranges) - set(Candidate.model_fields):
            raise ValueError(f"`ranges` names {', '.join(sorted(unknown))}, which no candidate has")
        return self


class Refusal(_Closed):
    """When a picture is predicted `unknown` rather than as a class."""

    unlike: Annotated[float, Field(ge=0, lt=1)] = (
        0.01  # share of photographs like the training ones that may be refused as unlike them
    )
    wrong_costs: Annotated[float, Field(ge=1)] = (
        4.0  # refusals that a wrong answer costs as much as; 1 refuses none as unsure
    )
    strangers: str = ""  # a folder of pictures of something else, outside data/; what is accepted of them is measured
    stranger_costs: NonNegative = 0.0  # refused photographs that an accepted stranger costs as much as; above 0 half of
    # `strangers` sets the threshold in place of `unlike`, and the other half is measured

    @model_validator(mode="after")
    def _costs_of_somebody(self) -> Self:
        if self.stranger_costs and not self.strangers:
            raise ValueError("`stranger_costs` needs a folder in `strangers`")
        return self


class Evaluation(_Closed):
    """How candidates are measured."""

    min_slice: Count = 15  # photographs; a smaller slice is not judged, but for a class
    corruptions: CountOrZero = 100  # test photographs that are also measured blurred, dark, rotated, ...
    clutter: CountOrZero = 100  # drawn shapes that should be refused: a smoke test, where there is no refusal.strangers


class Gate(_Closed):
    """When a challenger becomes champion: its log loss is better, and it keeps every limit that the champion keeps."""

    max_accuracy_loss: Share = 0.01  # lower end of the paired 95 % interval; 0.005 needs 770 photographs at least
    max_int8_accuracy_loss: Share = 0.01  # of a quantized model, which need only be faster
    looks: Count = 20  # comparisons on one test side at a level of 2.5 %; later ones are stricter
    min_photographs: Count = 100  # to compare on, where the champion has seen some of today's test photographs
    live_answers: CountOrZero = 0  # of a challenger beside the champion, before it is promoted; 0 waits for none
    max_calibration_error: Share = 0.1
    min_worst_slice: Share = 0.8  # accuracy
    max_robustness_loss: Share = 0.25  # accuracy lost under the worst corruption
    max_refused: Share = 0.1  # share of test photographs that are predicted `unknown`
    max_strangers_accepted: Share = (
        0.05  # share of `refusal.strangers` (or of drawn shapes) that is predicted as a class
    )
    max_latency_ms: Positive = 500  # median of one prediction
    max_size_mb: Positive = 200


class Loop(_Closed):
    """When the worker, each night, starts a review or a training from what the service was sent."""

    decisions: CountOrZero = 50  # of people, not in data/ yet; so many are applied, and a training starts; 0: never
    days: Positive = 7  # of traffic that are looked at, and between two reviews for drift
    photographs: Count = 200  # different ones in these days; fewer show no drift
    drift: Annotated[float, Field(ge=0.5, le=1)] = (
        0.7  # share of pairs in which traffic is told from held-out photographs
    )
    label_shift: Share = 0.2  # share of predictions that would have to be of another class


Names = Annotated[tuple[str, ...], Field(strict=False)]  # YAML has lists, not tuples
Digests = tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...]


class Tokens(_Closed):
    """SHA-256 (in hex) of the bearer tokens that open a part of the service; without any it is open to all.

    The admin part is the exception: without a token it is closed.
    """

    model_config = ConfigDict(strict=False)  # YAML has lists, not tuples

    read: Digests = ()
    feedback: Digests = ()
    admin: Digests = ()


class Challenger(_Closed):
    """A second model beside the one in service, read when the service starts."""

    mode: Literal["off", "shadow", "canary"] = "off"  # shadow: for the log alone; canary: for the client
    share: Share = 0.1  # of the photographs, by their content
    max_errors: Share = 0.05  # of its last 200 answers; more switch it off
    max_slowdown: Positive = 3.0  # times the champion's time for a photograph (lower quartiles); more switch it off


class Serving(_Closed):
    """Limits of the service."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where onnxruntime-gpu finds one
    precision: Literal["auto", "bf16", "f32"] = "auto"  # auto: bf16 where the CPU computes in it
    max_body_mb: Positive = 20  # a larger request is refused with 413
    max_bodies_mb: Positive = 128  # of all requests that arrive at once; past it the larger ones are answered 503
    max_pixels: Count = 50_000_000  # a picture whose header claims more is refused
    max_decode_mb: Count = 512  # of memory that decoding one picture may take
    body_seconds: Positive = 20  # headers or a body that take longer to arrive are cut off
    answer_seconds: Positive = 4.5  # after its body is there; a request that waits for longer is answered 504
    max_in_flight: Literal["auto"] | Count = "auto"  # pictures at once; one more is answered 503. auto: 50 a core
    max_images: Count = 64  # in one /predict/batch
    requests_per_minute: CountOrZero = 0  # of one token or address; 0 is no limit
    traffic_rows: CountOrZero = 20_000  # predictions that the traffic log keeps; 0 keeps none
    keep_pictures: bool = False  # without what cameras write beside the pixels, in a folder beside the traffic log
    keep_days: Positive = 30  # a picture, since it came last
    keep_mb: Positive = 1000  # of kept pictures; the oldest go first
    allowed_hosts: Names = ()  # names under which the service is reached, beside localhost and IP addresses
    allowed_origins: Names = ()  # other sites' pages that may use the service, e.g. https://example.org
    trusted_proxies: Names = ()  # addresses or networks whose X-Forwarded-For is believed
    examples: CountOrZero = 4  # test photographs that the page offers to try; the Bento holds them
    challenger: Challenger = Challenger()
    tokens: Tokens = Tokens()

    @model_validator(mode="after")
    def _a_batch_fits(self) -> Self:
        if self.max_in_flight != "auto" and self.max_images > self.max_in_flight:
            raise ValueError(f"max_images ({self.max_images}) must not be larger than max_in_flight")
        return self


class Params(_Closed):
    """The whole of params.yaml."""

    schema_version: Literal[2]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    preprocess: Preprocess
    split: SplitShares
    training: Training
    candidates: Annotated[dict[str, Candidate], Field(min_length=1)]
    quantized: dict[str, str] = {}  # name of an INT8-quantized model -> the candidate that it is made from
    sweep: Sweep = Sweep()
    refusal: Refusal = Refusal()
    evaluation: Evaluation
    gate: Gate
    loop: Loop = Loop()
    serving: Serving

    @model_validator(mode="after")
    def _models_can_be_named(self) -> Self:
        for name in (*self.candidates, *self.quantized):
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", name):
                raise ValueError(f"a candidate is called {name!r}; letters, digits, _ and - can name one")
        return self

    @model_validator(mode="after")
    def _quantized_is_known(self) -> Self:
        for name, source in self.quantized.items():
            if source not in self.candidates:
                raise ValueError(f"`quantized.{name}` names {source!r}, which is no candidate")
            if name in self.candidates:
                raise ValueError(f"`quantized.{name}` has the name of a candidate; give it another")
        return self

    @model_validator(mode="after")
    def _live_answers_come(self) -> Self:
        beside = self.serving.challenger
        most = self.serving.traffic_rows
        if beside.mode == "shadow":
            most = int(most * beside.share / (1 + beside.share))  # both answers are rows
        elif beside.mode == "canary":
            most = int(most * beside.share)
        if self.gate.live_answers and beside.mode == "off":
            raise ValueError(
                "`gate.live_answers` waits for a challenger: `serving.challenger.mode` is shadow or canary"
            )
        if self.gate.live_answers > most:
            raise ValueError(
                f"`gate.live_answers` is more than the {most} that `serving.traffic_rows` and "
                "`serving.challenger.share` keep"
            )
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that are evaluated: trained candidates and quantized ones."""
        return (*self.candidates, *self.quantized)

    def candidate(self, name: str) -> Candidate:
        """The candidate that the model `name` is trained as; PawprintError with the known names where there is none."""
        name = self.quantized.get(name, name)
        if name not in self.candidates:
            raise PawprintError(
                f"params.yaml has no candidate {name!r}; it has {', '.join(self.candidates)}. "
                "Add it under `candidates` or use one of these."
            )
        return self.candidates[name]


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml; PawprintError names the key, what is wrong and what was expected."""
    raw = load_yaml(path)
    if isinstance(raw, dict) and raw.get("schema_version") != SCHEMA_VERSION:
        raise PawprintError(
            f"{path} has schema_version {raw.get('schema_version', 1)}; this version of pawprint reads "
            f"{SCHEMA_VERSION}. Set it, rename `evaluation.disturbed` to `corruptions` and replace `int8: [NAME]` by "
            "`quantized: {NAME_int8: NAME}`."
        )
    return _check(Params, raw, path)


def load_serving(path: Path) -> Serving:
    """The `serving` section alone, which is all that a Bento carries of params.yaml."""
    raw = load_yaml(path)
    return _check(Serving, raw.get("serving", {}) if isinstance(raw, dict) else raw, path)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values, as DVC reads and writes them: `off` is a word, 3e-4 a number, and 1e6 a whole one."""

    yaml_implicit_resolvers = {}  # noqa: RUF012


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    value = float(loader.construct_yaml_float(node))
    return int(value) if "e" in node.value.lower() and value.is_integer() else value


_TAG = "tag:yaml.org,2002:"
_Loader.add_constructor(f"{_TAG}int", _integer)
_Loader.add_constructor(f"{_TAG}float", _number)
for _name, _pattern, _firsts in (
    ("null", r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"[-+]?\d[\d_]*$", list("-+0123456789")),
    ("float", r"[-+]?((\d+\.\d*|\.\d+)([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(inf|nan))$", list("-+.0123456789")),
    ("merge", r"<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(_pattern), _firsts)


def load_yaml(path: Path) -> Any:
    """The content of a file of parameters.

    Raises:
        PawprintError: It is missing, or not valid YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise PawprintError(f"{path} is missing. Run from the project's root, or `git checkout {path}`.") from None
    except yaml.YAMLError as error:
        raise PawprintError(f"{path} is not valid YAML: {error}. Correct that line.") from None


_KIND = re.compile(r"literal\[|constrained-|(int|float)$")  # of what a field may be, in pydantic's place of a mistake


def _check(model: type[_Model], raw: Any, path: Path) -> _Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        fields = [[part for part in map(str, one["loc"]) if not _KIND.match(part)] for one in error.errors()]
        problems = "; ".join(
            (f"`{'.'.join(field)}`: " if field else "") + _explain(problem)
            for field, problem in zip(fields, error.errors(), strict=True)
        )
        raise PawprintError(f"{path}: {problems}.") from None


def _explain(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "unknown key; correct its spelling or remove it"
    if problem["type"] == "missing":
        return "missing; add it (`git diff params.yaml` shows what changed)"
    if problem["type"] in ("float_type", "int_type") and isinstance(problem["input"], str):
        return f"a number is expected, such as 0.001 or 3e-4 (found {problem['input']!r})"
    message = problem["msg"].removeprefix("Value error, ")
    return message if isinstance(problem["input"], dict | list) else f"{message} (found {problem['input']!r})"


def flatten(params: BaseModel, prefix: str = "") -> dict[str, Any]:
    """`{"training.device": "cpu", ...}`: dotted names as DVC and MLflow show them."""

    def walk(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {name: value}
        below = [walk(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items()]
        return {dotted: leaf for leaves in below for dotted, leaf in leaves.items()}

    return walk(params.model_dump(mode="json"), prefix)


def digest(params: BaseModel) -> str:
    """SHA-256 of the params as canonical JSON: equal params, equal digest, whatever the file's layout."""
    canonical = json.dumps(params.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
