//! Goldens: canned answers in every format.
