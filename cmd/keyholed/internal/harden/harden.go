// Package harden makes a process that holds a PIN tell less of itself: no
// core dumps, no debugger of the same user, no secret in its environment as
// the kernel shows it; and it finds files that others could exchange.
//
// It stops neither root nor whoever can already run code in the process.
package harden
