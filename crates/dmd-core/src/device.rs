//! Devices by name: the only place that names a backend.
//!
//! | name | backend | cargo feature |
//! | --- | --- | --- |
//! | `flex` | CPU, pure Rust | `flex` |
//! | `ndarray` | CPU, kept for compatibility (slow convolutions) | `ndarray` |
//! | `wgpu`, `wgpu:1`, `wgpu:cpu` | any GPU through WGSL | `wgpu` |
//! | `vulkan`, `vulkan:1`, `vulkan:cpu` | Vulkan through SPIR-V | `vulkan` |
//! | `cuda`, `cuda:1` | NVIDIA | `cuda` |

use burn::tensor::Device;

/// A device name that cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownDevice {
    /// No backend has this name.
    #[error("unknown device {name:?}; the devices of this build are: {}", available().join(", "))]
    Name {
        /// The name as given.
        name: String,
    },
    /// The backend exists, but this build does not contain it.
    #[error(
        "device {name:?} is not compiled in; build with `--features {feature}` (the devices of this build are: {})",
        available().join(", ")
    )]
    NotCompiled {
        /// The name as given.
        name: String,
        /// The cargo feature that adds the backend.
        feature: &'static str,
    },
    /// What follows the colon is no device of this backend.
    #[error("device {name:?}: {index:?} is not an index of a {backend} device")]
    Index {
        /// The name as given.
        name: String,
        /// The part before the colon.
        backend: &'static str,
        /// The part after the colon.
        index: String,
    },
}

/// Backends in the order of the table above, with the cargo feature of each.
const BACKENDS: [&str; 5] = ["flex", "ndarray", "wgpu", "vulkan", "cuda"];

/// The names of the backends that this build contains.
pub fn available() -> Vec<&'static str> {
    let compiled = [
        cfg!(feature = "flex"),
        cfg!(feature = "ndarray"),
        cfg!(feature = "wgpu"),
        cfg!(feature = "vulkan"),
        cfg!(feature = "cuda"),
    ];
    let named = BACKENDS.into_iter().zip(compiled);
    named.filter_map(|(name, there)| there.then_some(name)).collect()
}

/// The device of a name such as `flex`, `cuda:0` or `wgpu`.
///
/// # Errors
///
/// [`UnknownDevice`] when no backend has the name, or when its feature is not compiled in.
pub fn open(name: &str) -> Result<Device, UnknownDevice> {
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => (backend, Some(index)),
        None => (name, None),
    };
    let Some(feature) = BACKENDS.into_iter().find(|known| *known == backend) else {
        return Err(UnknownDevice::Name { name: name.to_owned() });
    };
    if !available().contains(&feature) {
        return Err(UnknownDevice::NotCompiled { name: name.to_owned(), feature });
    }
    let wrong_index = || UnknownDevice::Index {
        name: name.to_owned(),
        backend: feature,
        index: index.unwrap_or_default().to_owned(),
    };
    open_backend(feature, index).ok_or_else(wrong_index)
}

/// `None` when `index` names no device of this backend.
fn open_backend(backend: &str, index: Option<&str>) -> Option<Device> {
    match backend {
        #[cfg(feature = "flex")]
        "flex" => index.is_none().then(Device::flex),
        #[cfg(feature = "ndarray")]
        "ndarray" => index.is_none().then(ndarray),
        #[cfg(feature = "wgpu")]
        "wgpu" => graphics_kind(index).map(Device::wgpu),
        #[cfg(feature = "vulkan")]
        "vulkan" => graphics_kind(index).map(Device::vulkan),
        #[cfg(feature = "cuda")]
        "cuda" => match index {
            None => Some(Device::cuda(0)),
            Some(index) => index.parse::<usize>().ok().map(Device::cuda),
        },
        _ => None,
    }
}

#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "kept for compatibility until burn drops it")]
fn ndarray() -> Device {
    Device::ndarray()
}

#[cfg(feature = "wgpu")]
fn graphics_kind(index: Option<&str>) -> Option<burn::tensor::DeviceKind> {
    use burn::tensor::DeviceKind;
    match index {
        None => Some(DeviceKind::DefaultDevice),
        Some("cpu") => Some(DeviceKind::Cpu),
        Some(index) => index.parse().ok().map(DeviceKind::DiscreteGpu),
    }
}
