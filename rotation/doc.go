// Package rotation is the life-cycle engine: it makes keys and versions,
// switches which version is active, takes versions out of use, and finishes
// or undoes whatever a crash left half done.
//
// A rotation is a row in the store that moves through phases, one durable
// write per step. The call that begins it, an order about it, the start-up
// and the timer all go through the same function (Engine.advance): look at
// the state, take one step, until there is none to take. What it looks at is
// the key, the rotation and the clock; what a step decides is one pure
// function (turn.forward):
//
//  1. reserved: the number, the CKA_ID and the plan are stored. The intent is
//     recorded (audit): without it nothing happens in the HSM. Then the
//     objects are generated, read back and used once (HSM).
//  2. announced: the version is published. The lead and the agents are waited
//     for.
//  3. scheduled: the moment of the switch is stored, and every gateway
//     switches by its clock.
//  4. activated: the switch is recorded, and stands from then on wherever a
//     clock steps to. The outcome is recorded (audit).
//  5. completed.
//
// A plan that waits for nothing goes from 1 to 4 in one write. Whatever fails
// before the switch, or is aborted, is undone: the decision is stored first
// (Rotation.Error), then the objects are destroyed, the outcome is recorded,
// and the rotation ends, aborted.
//
// A crash between two steps repeats at most the interrupted one: objects that
// were generated but never registered are destroyed and made anew, and an
// outcome may be recorded twice but never not at all. Every write about a
// rotation that is under way is a compare-and-swap on its key's epoch, so that
// two processes that take the same step take it once.
package rotation
