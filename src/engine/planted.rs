//! Faults that a test plants in the code of the engine, to see that the simulation finds them.

use std::cell::Cell;

/// Something that is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::VariantArray)]
pub(super) enum Fault {
    /// The kernel is not told to end a receive.
    CancelIsLost,
    /// An operation has ended, and is said to go on.
    EndIsHidden,
    /// A receive goes on, and is said to have ended: it is begun again, and is armed twice.
    EndIsInvented,
    /// The ring does not learn that completions wait in the kernel.
    OverflowIsHidden,
    /// A receive is begun twice.
    ReceiveIsDoubled,
    /// A send is begun twice.
    SendIsDoubled,
    /// A send that should tell is silent.
    SendIsSilent,
    /// The ring does not learn that a send is over.
    SentIsLost,
    /// A send that was cut short is said to be whole.
    ShortIsWhole,
    /// A send that waits for the peer does not wait.
    SendDoesNotWait,
    /// What a peer has not confirmed is asked for in vain.
    AnswerIsLost,
    /// An accept is begun at once in place of when a connection is queued.
    AwaitIsLost,
    /// A completion is said to be of an operation that there never was.
    TokenIsWrong,
    /// The socket is not shut, and is said to be.
    ShutdownIsLost,
    /// A shutdown is said to be done before it is: the place is free when it comes.
    ShutdownIsLate,
    /// No deadline comes.
    AlarmIsLost,
    /// The eventfd is not heard.
    WakeIsLost,
    /// Two receives change their places.
    ReceivesAreSwapped,
    /// Of two receives each is said to have filled the other's buffer.
    BuffersAreSwapped,
    /// A buffer does not get back to the kernel.
    BufferIsLost,
    /// That there was no buffer is said to be the end of the stream.
    NoBufferIsEnd,
    /// The ring does not learn that there was no buffer: the receive is never begun again.
    NoBufferIsLost,
    /// That a receive was cancelled is said to be a reset.
    CancelledIsReset,
    /// An accept has ended, and is said to go on.
    AcceptIsLost,
    /// The ring takes operations for submitted that are not: silent sends are over too soon.
    SubmissionsAreHidden,
    /// Completions are kept from the ring for one turn: silent sends are concluded before it knows of those that failed.
    CompletionsAreLate,
    /// What is sent changes before the kernel has read it.
    ContentChanges,
    /// A socket is closed while something is under way on it.
    CloseIsEarly,
    /// In the code: what was received beyond the share of a turn comes out of order.
    LateIsReversed,
    /// In the code: what a short send has left is queued in the wrong order.
    UnsentIsReversed,
    /// In the code: a place is freed though a shutdown is under way.
    ShutdownsAreNotCounted,
    /// In the code: who finds no buffer is not listed.
    StarvedAreForgotten,
    /// In the code: the worker sleeps on a silent send that the kernel took late.
    SleepsOnDelayed,
    /// In the code: the worker sleeps though some of what was received is left for the next turn.
    SleepsOnLate,
    /// In the code: a buffer is not given back.
    BufferLeaks,
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Plants a fault in the code that this thread runs.
pub(super) fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}

/// Whether this fault is planted in the code.
pub(super) fn is_planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}
