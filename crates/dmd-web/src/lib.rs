//! One-step pictures in a browser, without a server: [`Drawer`], and its bindings for JavaScript on the target
//! `wasm32-unknown-unknown`. `examples/web/build` builds the module and a page around it.
//!
//! ```js
//! import init, { Drawer } from "./dmd_web.js";
//!
//! await init();
//! const drawer = new Drawer(); // the small model in the module
//! const picture = drawer.draw("a red circle above a blue square", 7);
//! new ImageData(picture.pixels, picture.width, picture.height);
//! ```
//!
//! Drawing takes its time on the thread that calls it; a page calls it in a worker. The page of the package shows the same in Rust,
//! which runs on any target.

mod drawer;
mod error;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod js;

pub use drawer::{Drawer, Picture};
pub use error::Error;

/// The example of the package's page is a test.
#[cfg(all(doctest, feature = "embedded"))]
#[doc = include_str!("../README.md")]
struct Readme;
