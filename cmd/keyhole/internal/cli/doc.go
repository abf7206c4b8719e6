// Package cli is the command tree of keyhole: one file per group of
// commands, each command a few lines over package client. root.go holds what
// all commands share, exit.go what the exit code says, hint.go what to do
// about an error.
package cli
