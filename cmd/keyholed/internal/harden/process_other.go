//go:build !linux

package harden

// Process does nothing on this system.
func Process() error { return nil }
