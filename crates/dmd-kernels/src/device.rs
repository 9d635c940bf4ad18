//! Devices by name: the only place that names a backend.
//!
//! | name | backend | cargo feature |
//! | --- | --- | --- |
//! | `flex` | CPU, pure Rust | `flex` |
//! | `ndarray` | CPU, kept for compatibility (slow convolutions) | `ndarray` |
//! | `wgpu`, `wgpu:1`, `wgpu:cpu` | GPUs through WGSL; `cpu` is a software driver | `wgpu` |
//! | `vulkan`, `vulkan:1`, `vulkan:cpu` | Vulkan through SPIR-V | `vulkan` |
//! | `cuda`, `cuda:1` | NVIDIA | `cuda` |
//!
//! A number counts the backend's cards in the order of [`backends`].
//!
//! Flex uses the widest instructions that the processor has. The environment variable `DMD_MAX_CPU_ISA` limits them, to `scalar`,
//! `avx2`, `avx512` or `avx512_bf16`, each with all before it; the package gemm, which multiplies large matrices in single precision,
//! chooses for itself. It is read once, at the first operation.

#[cfg(any(feature = "flex", feature = "ndarray", feature = "wgpu", feature = "cuda"))]
use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, FloatDType};

/// The device without autodiff.
#[cfg(any(feature = "flex", feature = "ndarray", feature = "wgpu", feature = "cuda"))]
pub(crate) fn plain(device: &DispatchDevice) -> &DispatchDevice {
    match device {
        DispatchDevice::Autodiff(inner) => plain(inner),
        other => other,
    }
}

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
    /// The variable that limits the processor's instructions has a value that is not known.
    #[error("{0}")]
    Instructions(String),
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
    /// The backend is compiled in and finds no hardware or no driver for it.
    #[error("device {name:?}: {missing}")]
    NoDriver {
        /// The name as given.
        name: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The backend has devices, and this is none of them.
    #[error("device {name:?} is not there; {backend} finds: {}", found.join(", "))]
    Index {
        /// The name as given.
        name: String,
        /// The part before the colon.
        backend: &'static str,
        /// The names of the devices that are there.
        found: Vec<String>,
    },
}

/// A kind of device, and what of it this machine has.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The name before the colon, which is also the cargo feature.
    pub name: &'static str,
    /// Whether this build contains it.
    pub compiled: bool,
    /// Its devices by name, the one that the bare name opens first.
    pub devices: Vec<(String, Device)>,
}

impl Backend {
    /// What it takes for this backend to find a device.
    pub fn needs(&self) -> &'static str {
        needs(self.name)
    }
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// The hardware's or driver's own name; none for the CPU backends.
    pub hardware: Option<String>,
    /// Its memory in bytes, where the driver tells.
    pub memory: Option<u64>,
    /// Float types that it computes in.
    pub float_types: Vec<FloatDType>,
}

/// Backends in the order of the table above; each is also the name of its cargo feature.
const BACKENDS: [&str; 5] = ["flex", "ndarray", "wgpu", "vulkan", "cuda"];

/// The names of the backends that this build contains.
pub fn available() -> Vec<&'static str> {
    BACKENDS.into_iter().filter(|name| compiled(name)).collect()
}

fn compiled(backend: &str) -> bool {
    match backend {
        "flex" => cfg!(feature = "flex"),
        "ndarray" => cfg!(feature = "ndarray"),
        "wgpu" => cfg!(feature = "wgpu"),
        "vulkan" => cfg!(feature = "vulkan"),
        "cuda" => cfg!(feature = "cuda"),
        _ => false,
    }
}

fn needs(backend: &str) -> &'static str {
    match backend {
        "wgpu" => {
            "no graphics driver was found; install the GPU's Vulkan driver (software rendering: Debian's mesa-vulkan-drivers, then `wgpu:cpu`)"
        }
        "vulkan" => {
            "no Vulkan driver was found; install the GPU's, or build with `--features wgpu` for other graphics interfaces"
        }
        "cuda" => "no NVIDIA driver (libcuda) with a GPU was found",
        _ => "nothing is missing",
    }
}

/// Every backend, and the devices that the compiled ones find here. Asks drivers, so keep the answer.
pub fn backends() -> Vec<Backend> {
    BACKENDS
        .into_iter()
        .map(|name| Backend { name, compiled: compiled(name), devices: found(name) })
        .collect()
}

/// The device of a name such as `flex`, `cuda:0` or `wgpu`: a bare name is the backend's first device, a graphics
/// card before software rendering.
///
/// # Errors
///
/// [`UnknownDevice`] when no backend has the name, when its feature is not compiled in, when its driver is not
/// installed, or when it has no such device.
pub fn open(name: &str) -> Result<Device, UnknownDevice> {
    let backend = name.split_once(':').map_or(name, |(backend, _)| backend);
    let Some(backend) = BACKENDS.into_iter().find(|known| *known == backend) else {
        return Err(UnknownDevice::Name { name: name.to_owned() });
    };
    if !compiled(backend) {
        return Err(UnknownDevice::NotCompiled { name: name.to_owned(), feature: backend });
    }
    #[cfg(feature = "flex")]
    if backend == "flex" {
        crate::flex::limit().map_err(UnknownDevice::Instructions)?;
    }
    let devices = found(backend);
    if devices.is_empty() {
        return Err(UnknownDevice::NoDriver { name: name.to_owned(), missing: needs(backend) });
    }
    let names = || devices.iter().map(|(name, _)| name.clone()).collect();
    let wanted = |(i, (own, _)): &(usize, &(String, Device))| own == name || (*i == 0 && name == backend);
    match devices.iter().enumerate().find(wanted) {
        Some((_, (_, device))) => Ok(device.clone()),
        None => Err(UnknownDevice::Index { name: name.to_owned(), backend, found: names() }),
    }
}

/// The device whose memory is the host's, where this build has one.
pub fn host() -> Option<Device> {
    ["flex", "ndarray"].into_iter().find_map(|name| open(name).ok())
}

/// The devices of a backend with their names; none where it is not compiled in.
fn found(backend: &str) -> Vec<(String, Device)> {
    match backend {
        #[cfg(feature = "flex")]
        "flex" => vec![(backend.to_owned(), Device::flex())],
        #[cfg(feature = "ndarray")]
        "ndarray" => vec![(backend.to_owned(), ndarray())],
        #[cfg(feature = "wgpu")]
        "wgpu" => graphics(backend, burn::tensor::DeviceType::Wgpu, Device::wgpu),
        #[cfg(feature = "vulkan")]
        "vulkan" => graphics(backend, burn::tensor::DeviceType::Vulkan, Device::vulkan),
        #[cfg(feature = "cuda")]
        "cuda" => Device::enumerate(burn::tensor::DeviceType::Cuda)
            .into_vec()
            .into_iter()
            .enumerate()
            .map(|(i, device)| (format!("{backend}:{i}"), device))
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "kept for compatibility until burn drops it")]
fn ndarray() -> Device {
    Device::ndarray()
}

/// Graphics cards numbered in the driver's order, then software rendering as `cpu`.
#[cfg(feature = "wgpu")]
fn graphics(
    backend: &str,
    kind: burn::tensor::DeviceType,
    of_kind: fn(burn::tensor::DeviceKind) -> Device,
) -> Vec<(String, Device)> {
    let software = of_kind(burn::tensor::DeviceKind::Cpu);
    let (last, cards): (Vec<Device>, Vec<Device>) =
        Device::enumerate(kind).into_vec().into_iter().partition(|device| *device == software);
    let cards = cards.into_iter().enumerate().map(|(i, device)| (format!("{backend}:{i}"), device));
    cards.chain(last.into_iter().map(|device| (format!("{backend}:cpu"), device))).collect()
}

/// What a device says of itself. Starts the device.
pub fn properties(device: &Device) -> Properties {
    let all = [FloatDType::F64, FloatDType::F32, FloatDType::F16, FloatDType::BF16];
    let float_types = all.into_iter().filter(|float| device.supports_dtype(*float)).collect();
    let (hardware, memory) = hardware(device);
    Properties { hardware, memory, float_types }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn hardware(device: &Device) -> (Option<String>, Option<u64>) {
    let memory = match device.as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => device.client().properties().memory.max_memory(),
        _ => None,
    };
    (device.identity().map(|identity| identity.name), memory)
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn hardware(_: &Device) -> (Option<String>, Option<u64>) {
    (None, None)
}

/// The memory in bytes that burn holds on a device, what it keeps for later included; `None` for the CPU backends, whose
/// memory is the process's. Waits for what was asked of the device before.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub fn memory(device: &Device) -> Option<u64> {
    use burn::cubecl::MemoryScope;
    match device.as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => {
            Some(device.client().memory_report(MemoryScope::Device).usage().bytes_reserved)
        }
        _ => None,
    }
}

/// The memory in bytes that burn holds on a device; `None`, for the CPU backends' is the process's.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub fn memory(_: &Device) -> Option<u64> {
    None
}

/// The float type that a network's activations have on a device, where its weights have the type `weights`. It is the same type but
/// on flex, which computes in single precision and reads weights in half precision as it uses them.
pub fn computes_in(device: &Device, weights: DType) -> DType {
    #[cfg(feature = "flex")]
    if matches!(plain(device.as_dispatch()), DispatchDevice::Flex(_))
        && matches!(weights, DType::F16 | DType::BF16)
    {
        return DType::F32;
    }
    #[cfg(not(feature = "flex"))]
    let _ = device;
    weights
}

/// Whether layers whose weights are in bf16 are multiplied in bf16 on flex, their sums in single precision: where the processor has
/// the instructions (AVX512-BF16), and `DMD_MAX_CPU_ISA` allows them. Elsewhere such weights are converted where they are used, and
/// multiplied in single precision.
pub fn multiplies_bf16() -> bool {
    #[cfg(feature = "flex")]
    return crate::flex::multiplies_bf16();
    #[cfg(not(feature = "flex"))]
    false
}

/// Operations that this processor's cores do in a second in single precision, on registers alone: the measure of every product
/// that it computes. It is measured, which takes a moment; `None` without the feature `flex`.
pub fn processor_peak() -> Option<f64> {
    #[cfg(feature = "flex")]
    return Some(crate::flex::processor_peak());
    #[cfg(not(feature = "flex"))]
    None
}
