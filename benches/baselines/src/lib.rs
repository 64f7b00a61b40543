//! What the baseline servers share.
