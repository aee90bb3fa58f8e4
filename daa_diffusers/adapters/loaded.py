"""Loaded adapters of one restorer, at most one of which is active."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import CheckpointError, ConfigurationError
from ..hub.licenses import UNKNOWN, license_named
from ..hub.records import inherit_license, set_license, stated_license
from ..hub.untrusted import check_shapes, shapes_of
from .files import AdapterConfig
from .updates import Update, fingerprint, statistics, updates_for


class LoadedAdapters:
    """Adds the updates of an adapter to the parameters of a restorer, and reverts them exactly.

    The updates are added to the weights, so that the restorer is as fast with an adapter as without.

    Args:
        restorer: restorer for which the adapters were trained; any module.

    Attributes:
        configs: configs of the loaded adapters, by name.
        active: name of the adapter whose updates are applied, or None.
        fused: whether the applied updates count as part of the restorer, and are saved with it.
    """

    def __init__(self, restorer: nn.Module):
        self.restorer = restorer
        self.configs: dict[str, AdapterConfig] = {}
        self.active: str | None = None
        self.fused = False
        self._changes: dict[str, tuple[dict[str, Update], dict[str, torch.Tensor]]] = {}
        self._originals: dict[str, torch.Tensor] = {}  # original values of the tensors that the active adapter changed
        self._license = UNKNOWN  # license of the restorer without the fused adapter

    def add(self, name: str, config: AdapterConfig, tensors: Mapping[str, torch.Tensor]) -> None:
        """Loads an adapter without activating it.

        Args:
            name: name for `activate`.
            config, tensors: config and tensors of the adapter, from `read_adapter`.

        Raises:
            CheckpointError: the adapter is for another restorer, or its tensors do not fit (all are listed).
            ConfigurationError: the name is in use, or an adapter is fused.
        """
        if name in self.configs:
            raise ConfigurationError(f"`name` {name!r} is already loaded; give another, or unload_adapter({name!r})")
        self._refuse_fused("load")
        base = {key: self._originals.get(key, value) for key, value in self.restorer.named_parameters()}
        own_base = fingerprint(base)
        if config.base != own_base:
            known_as = f" ({config.base_name})" if config.base_name else ""
            raise CheckpointError(
                f"adapter {name!r} is for another restorer: its base has the fingerprint {config.base}{known_as}, this "
                f"restorer {own_base}. Load its base; a restorer cast to another dtype has another fingerprint, so "
                "cast after loading the adapter"
            )
        try:
            updates = updates_for(self.restorer, config.kind, config.rank or 1)
        except ConfigurationError as error:
            raise CheckpointError(f"adapter {name!r} does not fit: {error}") from error
        expected = {
            f"{parameter}.{key}": value
            for parameter, update in updates.items()
            for key, value in update.state_dict().items()
        }
        buffers = statistics(self.restorer)
        check_shapes(f"restorer that adapter {name!r} is to change", {**expected, **buffers}, shapes_of(tensors))
        for parameter, update in updates.items():
            update.load_state_dict({key: tensors[f"{parameter}.{key}"].float() for key in update.state_dict()})
        self._changes[name] = updates, {key: tensors[key].float() for key in buffers}
        self.configs[name] = config

    @torch.no_grad()
    def activate(self, name: str | None, scale: float = 1.0) -> None:
        """Activates one adapter instead of the active one, or none.

        Args:
            name: name of a loaded adapter; None: none.
            scale: factor of the updates; 1 as trained.

        Raises:
            ConfigurationError: no such adapter, `scale` is not a finite number, or an adapter is fused.
        """
        self._refuse_fused("change")
        if name is not None and name not in self.configs:
            raise ConfigurationError(f"`name` must be one of {sorted(self.configs)} or None, got {name!r}")
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) < float("inf"):
            raise ConfigurationError(f"`scale` must be a finite number, got {scale!r}")
        self._revert()
        if name is None:
            return
        updates, buffers = self._changes[name]
        tensors = self._tensors()
        for key, update in updates.items():
            parameter = tensors[key]
            dtype = torch.promote_types(parameter.dtype, torch.float32)  # the sum is rounded once
            change = update.delta(parameter.shape).to(parameter.device, dtype)
            self._put(key, parameter, parameter.to(dtype) + (change if scale == 1 else scale * change))
        for key, value in buffers.items():
            buffer = tensors[key]
            value = value.to(buffer)
            self._put(key, buffer, value if scale == 1 else buffer + scale * (value - buffer))
        self.active = name

    def remove(self, name: str | None = None) -> None:
        """Unloads one adapter, or all, and reverts the updates of the active one; fused updates stay.

        If the fused adapter is unloaded, all are, since the others were trained for the restorer before fusing.
        """
        if name is not None and name not in self.configs:
            raise ConfigurationError(f"`name` must be one of {sorted(self.configs)} or None, got {name!r}")
        if self.active is not None and name in (None, self.active):
            if self.fused:
                self._originals, self.active, self.fused = {}, None, False
                self.configs.clear()
                self._changes.clear()
                return
            self._revert()
        for removed in [name] if name is not None else list(self.configs):
            del self.configs[removed], self._changes[removed]

    def fuse(self) -> None:
        """Makes the active adapter part of the restorer, which gets the stricter of both licenses, until `unfuse`."""
        if self.active is None:
            raise ConfigurationError("no adapter is active: set_adapter(name) first")
        self.fused = True
        self._license = stated_license(self.restorer)
        license = self.configs[self.active].licence
        if license:
            inherit_license(self.restorer, license_named(license))

    def unfuse(self) -> None:
        """Reverts `fuse`; the adapter stays active."""
        if not self.fused:
            raise ConfigurationError("no adapter is fused")
        self.fused = False
        set_license(self.restorer, self._license)

    @contextmanager
    @torch.no_grad()
    def as_saved(self) -> Iterator[None]:
        """Context in which the updates of an active adapter that is not fused are reverted."""
        if self.active is None or self.fused:
            yield
            return
        tensors = self._tensors()
        changed = {key: tensors[key].detach().clone() for key in self._originals}
        try:
            for key, original in self._originals.items():
                tensors[key].copy_(original)
            yield
        finally:
            for key, value in changed.items():
                tensors[key].copy_(value)

    def _put(self, key: str, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """Sets a tensor of the restorer, and keeps its original value."""
        self._originals[key] = tensor.detach().clone()
        tensor.copy_(value)

    @torch.no_grad()
    def _revert(self) -> None:
        tensors = self._tensors()
        for key, original in self._originals.items():
            tensors[key].copy_(original)
        self._originals, self.active = {}, None

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Returns the tensors that adapters change, by name."""
        return {**dict(self.restorer.named_parameters()), **statistics(self.restorer)}

    def _refuse_fused(self, what: str) -> None:
        if self.fused:
            raise ConfigurationError(f"cannot {what} adapters while {self.active!r} is fused: unfuse_adapter() first")
