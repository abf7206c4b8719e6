package authz

import "net/netip"

// Limiter bounds what one caller can take.
type Limiter struct{}

// LoginAllowed reports whether source may try to authenticate.
func (l *Limiter) LoginAllowed(source netip.Addr) error { return nil }

// LoginFailed counts a failed authentication from source.
func (l *Limiter) LoginFailed(source netip.Addr) {}

// Admit takes a place among the principal's requests in flight.
func (l *Limiter) Admit(principal string) (release func(), err error) { return func() {}, nil }

// OperationFailed counts a failure that an attacker would produce many of.
func (l *Limiter) OperationFailed(principal string) {}
