//! How a thread of the generator moves the bytes of its connections.

mod epoll;
mod epoll_connection;

pub(crate) use epoll::{Context, run};
