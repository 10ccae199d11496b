"""site.toml as frozen structs, cross-checked: every fault is named with its path in the file."""

from gateway.config.site import SiteConfig, load

__all__ = ["SiteConfig", "load"]
