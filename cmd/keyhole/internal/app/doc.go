// Package app is what the commands of keyhole share: flags and environment,
// the connection, operands, answers, what the exit code says (exit.go) and
// what to do about an error (hint.go).
package app
