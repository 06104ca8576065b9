//! Stops a task as SIGSTOP does: it is not polled until it goes on, while time passes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    stopped: bool,
    waker: Option<Waker>,
}

impl Gate {
    pub(super) fn stop(&self) {
        self.0.lock().stopped = true;
    }

    pub(super) fn go_on(&self) {
        let mut state = self.0.lock();
        state.stopped = false;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn guard<F: Future>(&self, task: F) -> Guarded<F> {
        Guarded {
            gate: self.clone(),
            task: Box::pin(task),
        }
    }
}

pub(super) struct Guarded<F> {
    gate: Gate,
    task: Pin<Box<F>>,
}

impl<F: Future> Future for Guarded<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut state = self.gate.0.lock();
            if state.stopped {
                state.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.task.as_mut().poll(context)
    }
}
