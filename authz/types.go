package authz

import (
	"crypto/x509"
	"net/netip"
	"time"

	"keyhole/keys"
)

// Actions of the policy language: Action::"sign" and so on.
const (
	ActionSign          = "sign"
	ActionVerify        = "verify"
	ActionEncrypt       = "encrypt"
	ActionDecrypt       = "decrypt"
	ActionRewrap        = "rewrap"
	ActionDataKey       = "datakey"
	ActionRandom        = "random"
	ActionRead          = "read"    // describe a key; whoever may not is told that there is none
	ActionJWKS          = "jwks"    // published public keys
	ActionRecover       = "recover" // process with archived or compromised versions
	ActionCreateKey     = "create-key"
	ActionUpdateKey     = "update-key"
	ActionRotate        = "rotate"
	ActionSuspend       = "suspend"
	ActionResume        = "resume"
	ActionRevoke        = "revoke"
	ActionListRotations = "list-rotations"
	ActionAbort         = "abort-rotation"
	ActionActivate      = "activate-rotation" // the switch now, without waiting any longer
	ActionDestroy       = "destroy"           // order the destruction of a version
	ActionRestore       = "restore"           // of a version or a key whose destruction was ordered
	ActionDeleteKey     = "delete-key"
	ActionReadUsage     = "read-usage"
	ActionSubscribe     = "subscribe"   // be counted in acknowledgements, and acknowledge
	ActionTrigger       = "trigger"     // on a Trigger: rotate what it names
	ActionListAgents    = "list-agents" // on the Gateway, as those below
	ActionBlockAgent    = "block-agent" // and unblock
	ActionListApprovals = "list-approvals"
	ActionApprove       = "approve" // on the Key of the act: approve or reject what another asked for
	ActionReconcile     = "reconcile"
	ActionListWebhooks  = "list-webhooks"
	ActionRetryWebhook  = "retry-webhook"
	ActionListNodes     = "list-nodes"
	ActionReadAudit     = "read-audit" // all of the audit log, its checkpoints and proofs
)

// ActionAuthenticate names the act of proving who one is in the audit log.
// No policy decides on it.
const ActionAuthenticate = "authenticate"

// Actions returns every action that a policy can decide on.
func Actions() []string {
	return []string{
		ActionSign, ActionVerify, ActionEncrypt, ActionDecrypt, ActionRewrap, ActionDataKey, ActionRandom,
		ActionRead, ActionJWKS, ActionRecover, ActionCreateKey, ActionUpdateKey, ActionRotate,
		ActionSuspend, ActionResume, ActionRevoke, ActionListRotations, ActionAbort, ActionActivate, ActionDestroy, ActionRestore, ActionDeleteKey,
		ActionReadUsage, ActionSubscribe, ActionTrigger, ActionListAgents, ActionBlockAgent, ActionListApprovals, ActionApprove,
		ActionReconcile, ActionListWebhooks, ActionRetryWebhook, ActionListNodes, ActionReadAudit,
	}
}

// Methods of authentication.
const (
	MethodJWT       = "jwt"
	MethodMTLS      = "mtls"
	MethodJWTMTLS   = "jwt+mtls" // both given, both valid; the JWT speaks
	MethodAnonymous = "anonymous"
)

// Principal is an authenticated caller.
type Principal struct {
	ID        string    // "jwt:<issuer>:<sub>" or "mtls:<name>"
	Groups    []string  // Group::"..." in policies
	Method    string    // one of the Method constants
	ExpiresAt time.Time // of the credential; zero: none
	// Also is who else the caller has proven to be: with MethodJWTMTLS the
	// principal of the certificate. "": nobody.
	Also string
}

// Anonymous is the caller who showed no credentials.
func Anonymous() Principal { return Principal{ID: "anonymous", Method: MethodAnonymous} }

// Credentials are what a transport found on a request.
type Credentials struct {
	Token string              // bearer token without "Bearer "; "": none
	Chain []*x509.Certificate // client certificate chain, verified by TLS, leaf first; nil: none
}

// Failure is why authentication failed. Reason is a stable word for the audit
// log and metrics; the caller sees only the detail of the error it wraps,
// which tells no part of the reason.
type Failure struct {
	Reason string // "expired", "unknown-kid", ...
	Err    error  // a *keys.Error of kind keys.ErrUnauthenticated
}

func (f *Failure) Error() string { return "authentication failed: " + f.Reason }

// Unwrap returns the error for the caller.
func (f *Failure) Unwrap() error {
	if f.Err == nil {
		return keys.ErrUnauthenticated
	}
	return f.Err
}

// Resource types.
const (
	TypeKey     = "Key"
	TypeGateway = "Gateway" // acts that concern no key
	TypeTrigger = "Trigger" // a named trigger of the configuration
)

// Resource is what is acted on.
type Resource struct {
	Type    string // TypeKey, TypeGateway or TypeTrigger
	Name    string
	Purpose string
	Tags    map[string]string
}

// Context is what else a policy may ask about.
type Context struct {
	Method       string // of authentication
	SourceIP     netip.Addr
	VersionState string // "" if no version is concerned
	PayloadSize  int64  // bytes
}

// Request is one question to the policy.
type Request struct {
	Principal Principal
	Action    string
	Resource  Resource
	Context   Context
}

// Decision is the answer. Policies are the ids of the policies that decided:
// those that permitted, or those that forbade; none for the default denial.
// Errors are the policies that could not be evaluated: one that permits then
// does not apply, one that forbids denies.
type Decision struct {
	Allowed  bool
	Policies []string
	Errors   []string  // "id: why"
	Lane     keys.Lane // of what is allowed
}
