"""What makes a model one that can be shared on the Hugging Face hub."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from spade.core.checks import brief, check_flag, check_path, check_text
from spade.encoders._spec import HUB, EncoderSpec
from spade.io._hub.download import COMMIT, check_repository, fetch
from spade.io._hub.upload import check_token, push
from spade.models._card import Card, Published
from spade.models._checksums import CHECKSUMS, write_checksums
from spade.models._files import ARRAYS, CARD, CONFIG, GENES

#: Files of a model on the hub; no other is downloaded or replaced.
FILES = (CARD, CHECKSUMS, CONFIG, GENES, ARRAYS)


class SharedModel:
    """A model that can be uploaded to the Hugging Face hub, and read from there."""

    facts: dict[str, Any]
    spec: EncoderSpec | None = None

    if TYPE_CHECKING:
        save: Callable[..., None]
        load: Callable[..., Any]
        _card: Callable[[], Card]

        @property
        def id(self) -> str:
            """Identity of the model."""

    def _repr_html_(self) -> str:
        return self._card().html()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        licence: str | None = None,
        figures: Mapping[str, object] | None = None,
        **options: Any,
    ) -> str:
        """Upload the model to the Hugging Face hub, in one commit, with a card that the hub can read.

        The card says what the model reads, what it was trained on, the licence of its encoder, and what was measured.
        The weights inherit the terms of the training data and of the encoder: check both before you publish.

        Parameters
        ----------
        repo_id
            ``"owner/name"``. The repository is made if it is not there. Other files in it stay as they are.
        private
            Whether only the owner sees it. None: a new repository is private, and another stays as it is.
        token
            Token that may write. None: that of ``hf auth login`` or of the variable ``HF_TOKEN``.
        revision
            Branch to commit to, made if it is not there. None: ``main``.
        commit_message
            None: the kind of the model and its id.
        licence
            Terms of the weights as the hub names them, such as ``"cc-by-nc-4.0"``. None: ``other``, and the card refers
            to the terms of data and encoder.
        figures
            What was measured and how much it was, such as ``{"recall@10, held-out sections": 0.41}``, for the card.
        options
            Passed on to :meth:`save`: ``merge=True`` of a :class:`SealModel`.

        Returns
        -------
        str
            The commit. ``from_pretrained(repo_id, revision=commit)`` reads this very model, whatever follows.

        Raises
        ------
        PermissionError
            If there is no token, or it may not write there.
        ConnectionError
            If the hub cannot be reached.
        FileExistsError
            If the repository holds another model, which spade did not save.
        ValueError
            If the repository is public where ``private=True``, or the reverse, or a value cannot be used.

        Examples
        --------
        >>> commit = model.push_to_hub("our-lab/bulb", figures={"recall@10, held out": 0.41})  # doctest: +SKIP
        """
        check_repository(repo_id)
        branch = None if revision is None else check_text("revision", revision)
        if branch is not None and COMMIT.fullmatch(branch):
            raise ValueError(f"revision={branch!r} is a commit, which cannot be changed; name a branch.")
        private = None if private is None else check_flag("private", private)
        base = self.spec and self.spec.model
        hub_base = base.removeprefix(HUB) if base and base.startswith(HUB) else None
        published = Published(repo_id, licence, {} if figures is None else figures, hub_base)
        check_token(token)
        kind = type(self).__name__
        message = f"{kind} {self.id}" if commit_message is None else check_text("commit_message", commit_message)
        with TemporaryDirectory() as place:
            folder = Path(place) / "model"
            self.save(folder, **options)
            (folder / CARD).write_text(self._card().markdown(published))
            write_checksums(folder)
            return push(
                folder, repo_id, names=FILES, mark=CHECKSUMS, private=private, token=token, branch=branch,
                message=message,
            )  # fmt: skip

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        token: str | None = None,
        **options: Any,
    ) -> Self:
        """Read a model from the Hugging Face hub, through the hub's own cache.

        What is in the cache is not downloaded again, and is read without a network too. The hashes of all files are
        checked. ``model.facts["hub"]``, and thus the card, says which commit it is.

        Parameters
        ----------
        repo_id
            ``"owner/name"``, as in :meth:`push_to_hub`.
        revision
            Commit, tag or branch. None: the branch ``main``, whose commit is logged. Only a commit stays the same.
        cache_dir
            Folder of the cache. None: that of the hub (``HF_HUB_CACHE``).
        token
            Token that may read, for private models. None: that of ``hf auth login`` or of the variable ``HF_TOKEN``.
        options
            Passed on to :meth:`load`: ``weights=`` and ``device=`` of a :class:`SealModel`.

        Raises
        ------
        PermissionError
            If there is no such model, or the token may not read it.
        ConnectionError
            If it is not in the cache and the hub cannot be reached.
        FileNotFoundError
            If the repository holds no model that spade saved.
        ValueError
            If there is no such revision, a file was changed after the download, or the model is of another kind.

        Examples
        --------
        >>> model = sp.models.SpadeModel.from_pretrained("our-lab/bulb", revision="v1")  # doctest: +SKIP
        """
        if isinstance(repo_id, PathLike) or (isinstance(repo_id, str) and Path(repo_id).is_dir()):
            raise ValueError(
                f"repo_id={brief(repo_id)} is a folder on this machine; sp.models.{cls.__name__}.load reads it."
            )
        check_repository(repo_id)
        inspect.signature(cls.load).bind("", **options)
        folder = None if cache_dir is None else check_path("cache_dir", cache_dir)
        snapshot = fetch(repo_id, FILES, revision=revision, cache_dir=folder, token=token)
        model: Self = cls.load(snapshot.folder, **options)
        model.facts = model.facts | {"hub": f"{repo_id}, commit {snapshot.commit}"}
        return model
