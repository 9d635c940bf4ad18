//! The steps of the graph behind [`super::recomputed`] and [`super::gathered`].

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::backend::Cube;
#[cfg(feature = "flex")]
use burn::backend::Flex;
#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "kept for compatibility until burn drops it")]
use burn::backend::NdArray;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DispatchDevice, DispatchKindConversion, DispatchTensor};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

use super::Body;
use crate::device::plain;

/// Whether segments are computed again on this device.
pub(super) fn serves(device: &Device) -> bool {
    match plain(device.as_dispatch()) {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        DispatchDevice::Cube(_) => true,
        _ => false,
    }
}

/// [`super::recomputed`], where the device is served and something is trained.
pub(super) fn recomputed<M: Module + 'static, const N: usize>(
    module: &M,
    inputs: &[Tensor<4>; N],
    body: &Body<M, N>,
) -> Option<Tensor<4>> {
    let device = inputs[0].device();
    let mut tracked = Trained { found: Vec::new() };
    module.visit(&mut tracked);
    let segment = Start { module, inputs, body, tracked: &tracked.found };
    match plain(device.as_dispatch()) {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => segment.on::<Flex>(),
        #[cfg(feature = "ndarray")]
        #[expect(deprecated, reason = "kept for compatibility until burn drops it")]
        DispatchDevice::NdArray(_) => segment.on::<NdArray>(),
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        DispatchDevice::Cube(_) => segment.on::<Cube>(),
        _ => None,
    }
}

/// [`super::gathered`], where the device is served.
pub(super) fn gathered<const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>> {
    match plain(x.device().as_dispatch()) {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => through::<Flex, D>(x),
        #[cfg(feature = "ndarray")]
        #[expect(deprecated, reason = "kept for compatibility until burn drops it")]
        DispatchDevice::NdArray(_) => through::<NdArray, D>(x),
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        DispatchDevice::Cube(_) => through::<Cube, D>(x),
        _ => None,
    }
}

/// The trained parameters of a module, in visiting order.
struct Trained {
    found: Vec<DispatchTensor>,
}

impl ModuleVisitor for Trained {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.found.push(param.base().into_dispatch());
        }
    }
}

/// A segment about to be computed.
struct Start<'a, M, const N: usize> {
    module: &'a M,
    inputs: &'a [Tensor<4>; N],
    body: &'a Body<M, N>,
    /// The trained parameters.
    tracked: &'a [DispatchTensor],
}

impl<M: Module + 'static, const N: usize> Start<'_, M, N> {
    /// The segment on a backend; `None` where nothing is trained, or its tensors are not of the backend's training side.
    fn on<B: Backend>(&self) -> Option<Tensor<4>>
    where
        DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, NoCheckpointing>>,
    {
        let tracked = |tensor: DispatchTensor| {
            Tensor::<1>::from_dispatch(tensor).try_into_primitive::<Autodiff<B, NoCheckpointing>>().ok()
        };
        let nodes: Option<Vec<NodeId>> =
            self.tracked.iter().map(|tensor| Some(tracked(tensor.clone())?.id())).collect();
        let nodes = nodes?;
        // The parents: the inputs, and one of the parameters where there are any, without which a segment of untracked inputs
        // would not be tracked. A graph's steps have a fixed number of parents; the other parameters are leaves and need no
        // edge.
        let mut parents = Vec::with_capacity(N + 1);
        for input in self.inputs {
            let input = if input.is_autodiff() { input.clone() } else { input.clone().autodiff() };
            parents.push(tracked(input.into_dispatch())?.node());
        }
        if let Some(anchor) = self.tracked.first() {
            parents.push(tracked(anchor.clone())?.node());
        }
        let inputs = self.inputs.clone().map(Tensor::without_autodiff);
        // On the training side, but untracked: an operation may have another body, which rounds otherwise, on the plain one.
        let y = (self.body)(&self.module.clone().no_grad(), inputs.clone().map(Tensor::autodiff));
        let y: FloatTensor<B> = y.without_autodiff().try_into_primitive::<B>().ok()?;
        let module = self.module.valid();
        let state = State { module, inputs, nodes, body: Described(Arc::clone(self.body)) };
        macro_rules! step {
            ($parents:literal) => {{
                let parents: [_; $parents] = parents.try_into().ok()?;
                match Segment::<M, N>(PhantomData)
                    .prepare::<NoCheckpointing>(parents)
                    .compute_bound()
                    .stateful()
                {
                    OpsKind::Tracked(prep) => prep.finish(state, y),
                    OpsKind::UnTracked(prep) => prep.finish(y),
                }
            }};
        }
        let y = match parents.len() {
            1 => step!(1),
            2 => step!(2),
            3 => step!(3),
            4 => step!(4),
            _ => return None,
        };
        Some(Tensor::from_primitive::<Autodiff<B, NoCheckpointing>>(y))
    }
}

/// A body that says nothing of itself.
struct Described<M, const N: usize>(Body<M, N>);

impl<M, const N: usize> Clone for Described<M, N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M, const N: usize> fmt::Debug for Described<M, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a segment's body")
    }
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State<M, const N: usize> {
    /// On the plain side; each parameter remembers whether it is trained.
    module: M,
    inputs: [Tensor<4>; N],
    /// The nodes of the trained parameters, in visiting order.
    nodes: Vec<NodeId>,
    body: Described<M, N>,
}

/// The step in the graph.
#[derive(Debug)]
struct Segment<M, const N: usize>(PhantomData<fn() -> M>);

impl<B, M, const N: usize, const P: usize> Backward<B, P> for Segment<M, N>
where
    B: Backend,
    M: Module + 'static,
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = State<M, N>;

    fn backward(self, ops: Ops<Self::State, P>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = Tensor::<4>::from_primitive::<B>(grads.consume::<B>(&ops.node));
        let State { module, inputs, nodes, body } = ops.state;
        // Leaves of a graph of their own: one that shared a node with the outer graph would wait for it for ever.
        let module = module.train();
        // A network that was frozen for this call alone does not remember it.
        let frozen = nodes.is_empty();
        let module = if frozen { module.no_grad() } else { module };
        let wanted: [bool; N] = std::array::from_fn(|i| ops.parents[i].is_some());
        let mut i = 0;
        let inputs = inputs.map(|input| {
            i += 1;
            // On the training side in both cases, as in the forward pass.
            let input = input.autodiff();
            if wanted[i - 1] { input.require_grad() } else { input }
        });
        let y = (body.0)(&module, inputs.clone());
        let mut inner = (y * gradient.autodiff()).sum().backward();
        for (parent, input) in ops.parents.iter().zip(&inputs) {
            if let (Some(parent), Some(gradient)) = (parent, input.grad_remove(&mut inner)) {
                register::<B>(grads, parent.id, gradient.into_dispatch());
            }
        }
        let mut give =
            Give::<B> { nodes: nodes.into_iter(), inner: &mut inner, outer: grads, backend: PhantomData };
        module.visit(&mut give);
    }
}

/// Adds the gradient of a node.
fn register<B: Backend>(grads: &mut Gradients, node: NodeId, gradient: DispatchTensor)
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let gradient = Tensor::<1>::from_dispatch(gradient).try_into_primitive::<B>();
    grads.register::<B>(node, gradient.expect("a gradient is on its tensor's backend"));
}

/// Hands the gradients of a module's trained parameters on to the outer graph's nodes.
struct Give<'a, B> {
    nodes: std::vec::IntoIter<NodeId>,
    inner: &'a mut burn::tensor::Gradients,
    outer: &'a mut Gradients,
    backend: PhantomData<B>,
}

impl<B: Backend> ModuleVisitor for Give<'_, B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let node = self.nodes.next().expect("the module has the parameters that it had");
        if let Some(gradient) = param.base().grad_remove(self.inner) {
            register::<B>(self.outer, node, gradient.into_dispatch());
        }
    }
}

fn through<B: Backend, const D: usize>(x: &Tensor<D>) -> Option<Tensor<D>>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, NoCheckpointing>>,
{
    let x = x.clone().try_into_primitive::<Autodiff<B, NoCheckpointing>>().ok()?;
    let node = x.node();
    let y = match Gather.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((), x.into_primitive()),
        OpsKind::UnTracked(prep) => prep.finish(x.into_primitive()),
    };
    Some(Tensor::from_primitive::<Autodiff<B, NoCheckpointing>>(y))
}

/// A step that hands its gradient on.
#[derive(Debug)]
struct Gather;

impl<B: Backend> Backward<B, 1> for Gather {
    type State = ();

    fn backward(self, ops: Ops<(), 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, gradient);
        }
    }
}
