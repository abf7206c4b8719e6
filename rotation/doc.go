// Package rotation is the life-cycle engine: it makes keys and versions,
// switches which version is active, takes versions out of use, and finishes
// or undoes whatever a crash left half done.
//
// A rotation is a row in the store that moves through phases, one durable
// write per step. The live path, the start-up recovery and the timer all call
// the same function (Engine.advance): look at the state, take one step. Its
// order is fixed:
//
//  1. reserve the number and the CKA_ID (store)
//  2. record the intent (audit): without it nothing happens in the HSM
//  3. generate, read back, self-test (HSM)
//  4. activate (store, compare-and-swap on the key's epoch)
//  5. record the outcome (audit) and close the rotation (store)
//
// A crash between two steps repeats at most the interrupted one: objects that
// were generated but never registered are destroyed and made anew, and an
// outcome may be recorded twice but never not at all.
package rotation
