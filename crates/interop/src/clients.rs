//! Client libraries written elsewhere: scripts under `clients/`, their packages in the cache.
