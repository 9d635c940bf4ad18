//! Operations whose gradient is computed from their inputs again: nothing else is kept for it.

use std::fmt::Debug;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType};

/// An operation of `N` tensors in single precision with its settings. [`tracked`] gives it half precision too: inputs are
/// kept as they are, and computed with as copies.
pub(super) trait Recomputed<B: Backend, const N: usize>: Clone + Debug + Send + 'static {
    /// The output.
    fn forward(&self, inputs: [FloatTensor<B>; N]) -> FloatTensor<B>;

    /// The gradients of the inputs, given the output's. Those that are not `wanted` may be left out.
    fn backward(
        &self,
        inputs: [FloatTensor<B>; N],
        gradient: FloatTensor<B>,
        wanted: [bool; N],
    ) -> [Option<FloatTensor<B>>; N];
}

/// A tensor in a float type; the same tensor when it has that type.
fn in_type<B: Backend>(dtype: DType, x: FloatTensor<B>) -> FloatTensor<B> {
    match dtype {
        _ if x.dtype() == dtype => x,
        DType::F16 => B::float_cast(x, FloatDType::F16),
        DType::BF16 => B::float_cast(x, FloatDType::BF16),
        _ => B::float_cast(x, FloatDType::F32),
    }
}

/// The output, in the type of the first input.
fn output<B: Backend, T: Recomputed<B, N>, const N: usize>(
    operation: &T,
    inputs: [FloatTensor<B>; N],
) -> FloatTensor<B> {
    let dtype = inputs[0].dtype();
    in_type::<B>(dtype, operation.forward(inputs.map(|input| in_type::<B>(DType::F32, input))))
}

/// An operation's step in the graph.
#[derive(Debug)]
struct Recompute<T>(T);

impl<B: Backend, T: Recomputed<B, N> + Sync, const N: usize> Backward<B, N> for Recompute<T> {
    type State = [NodeId; N];

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let inputs = ops.state.map(|id| checkpointer.retrieve_node_output::<B::FloatTensorPrimitive>(id));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let types = inputs.each_ref().map(TensorMetadata::dtype);
        let single = |x| in_type::<B>(DType::F32, x);
        let gradients = self.0.backward(inputs.map(single), single(gradient), wanted);
        for ((node, gradient), dtype) in ops.parents.into_iter().zip(gradients).zip(types) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, in_type::<B>(dtype, gradient));
            }
        }
    }
}

/// Runs the operation and, where an input is tracked, notes its step in the graph.
pub(super) fn tracked<B, C, T, const N: usize>(
    operation: T,
    inputs: [FloatTensor<Autodiff<B, C>>; N],
) -> FloatTensor<Autodiff<B, C>>
where
    B: Backend,
    C: CheckpointStrategy,
    T: Recomputed<B, N> + Sync,
{
    let nodes = inputs.each_ref().map(|input| input.node());
    match Recompute(operation.clone()).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let state = inputs.each_ref().map(|input| prep.checkpoint(input));
            prep.finish(state, output(&operation, inputs.map(|input| input.into_primitive())))
        }
        OpsKind::UnTracked(prep) => {
            prep.finish(output(&operation, inputs.map(|input| input.into_primitive())))
        }
    }
}

/// Panics because a second derivative was asked for: burn's autodiff computes first derivatives alone.
pub(super) fn second_order(operation: &str) -> ! {
    panic!("the gradient of {operation} is not differentiable: burn's autodiff is first order")
}
