"""What trials see, and how it is made: the same wherever they run. Test labels and costs are in none of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rph.api import Labelled, Queries, RoutingDataset, Split, SplitName
from rph.lazy import np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from rph.api import Float32
    from rph.encoding.cache import Embeddings

ANY = "surrogatepass"  # JSON may hold halves of characters


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the trials of one (benchmark, encoder) see."""

    train: Labelled
    val: Labelled
    val_queries: Queries  # val as a router sees queries to route: without labels
    test_queries: Queries
    device: str


def inputs_of(dataset: RoutingDataset, embeddings: Embeddings, device: str) -> Inputs:
    """A benchmark's splits and their embeddings, as routers see them."""

    def labelled(name: SplitName, split: Split, X: Float32) -> Labelled:
        pool, weight = dataset.mask(name)
        return Labelled(
            X=X,
            texts=split.queries,
            Y=split.labels,
            C=split.costs,
            models=dataset.models,
            pool=pool,
            weight=weight,
        )

    return Inputs(
        train=labelled("train", dataset.train, embeddings.train),
        val=labelled("val", dataset.val, embeddings.val),
        val_queries=Queries(X=embeddings.val, texts=dataset.val.queries),
        test_queries=Queries(X=embeddings.test, texts=dataset.test.queries),
        device=device,
    )


class Texts(Sequence[str]):
    """Texts as two arrays, which processes can share without a copy each."""

    def __init__(self, blob: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.blob, self.ends = blob, ends

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        encoded = [text.encode(errors=ANY) for text in texts]
        ends = np.cumsum([len(each) for each in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        start = self.ends[place - 1] if place else 0
        return self.blob[start : self.ends[place]].tobytes().decode(errors=ANY)


def with_shared_texts(inputs: Inputs) -> Inputs:
    """The inputs with `Texts` in place of lists."""
    train, val, test = (
        Texts.of(each.texts) for each in (inputs.train, inputs.val_queries, inputs.test_queries)
    )
    return replace(
        inputs,
        train=replace(inputs.train, texts=train),
        val=replace(inputs.val, texts=val),
        val_queries=replace(inputs.val_queries, texts=val),
        test_queries=replace(inputs.test_queries, texts=test),
    )
