//! An opened diffusion model: what conditions it, its network, its noise schedule, and how its samples become
//! pictures.

pub mod pixels;
