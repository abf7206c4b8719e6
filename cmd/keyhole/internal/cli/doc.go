// Package cli is the command tree of keyhole. The commands are in packages
// data, admin and policy, what they share in package app.
package cli
