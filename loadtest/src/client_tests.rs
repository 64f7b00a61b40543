//! Tests of [`Client`], cut at every byte.

use super::*;
