//! The page at `/`: what HTTP says of it, and what Chromium makes of it.

#[path = "../common/mod.rs"]
mod common;

mod browser;
mod http;
mod looks;
mod talk;
mod webdriver;
