// Package wire turns what the gateway works with into the bodies of package
// api, and back. Its functions decide nothing: whoever calls them has found
// out what the caller may see.
package wire
