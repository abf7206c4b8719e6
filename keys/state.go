package keys

// State is the life-cycle state of a version (SP 800-57 Part 1, 7, with
// "archived" and "destroy-scheduled" added).
type State string

// The states.
const (
	PreActivation    State = "pre-activation"    // published, not yet used to sign or encrypt
	Active           State = "active"            // signs and encrypts
	Suspended        State = "suspended"         // out of use under suspicion; may resume
	Deactivated      State = "deactivated"       // verifies and decrypts: the overlap
	Archived         State = "archived"          // verifies and decrypts for those who may recover
	Compromised      State = "compromised"       // revoked; audited recovery only; never comes back
	DestroyScheduled State = "destroy-scheduled" // unusable, restorable until destroy_at
	Destroyed        State = "destroyed"         // the HSM objects are gone; only the number remains
)

// Event is what can happen to a version.
type Event string

// The events. EventActivate and EventDeactivate are brought about by the
// clock and by other versions of the key; the rest are acts.
const (
	EventActivate        Event = "activate"
	EventDeactivate      Event = "deactivate"
	EventSuspend         Event = "suspend"
	EventResume          Event = "resume"
	EventRevoke          Event = "revoke"
	EventArchive         Event = "archive"
	EventScheduleDestroy Event = "schedule-destroy"
	EventRestore         Event = "restore"
	EventDestroy         Event = "destroy"
	EventDelete          Event = "delete" // of the key as a whole: every version is scheduled for destruction
)

// transitions is the one table of legal state changes: state, event, and the
// states that the event may lead to. Resume and restore lead back to where
// the timeline puts the version at that moment.
//
// Deactivated back to active happens in one case only: the version that had
// replaced it was suspended, revoked or deleted before the overlap ended.
var transitions = map[State]map[Event][]State{
	PreActivation: {
		EventActivate: {Active},
		EventSuspend:  {Suspended},
		EventRevoke:   {Compromised},
		EventDestroy:  {Destroyed}, // an aborted rotation: the version was never used
		EventDelete:   {DestroyScheduled},
	},
	Active: { // not to be destroyed, but with its key
		EventDeactivate: {Deactivated},
		EventSuspend:    {Suspended},
		EventRevoke:     {Compromised},
		EventDelete:     {DestroyScheduled},
	},
	Suspended: {
		EventResume:          {PreActivation, Active, Deactivated},
		EventRevoke:          {Compromised},
		EventScheduleDestroy: {DestroyScheduled},
		EventDelete:          {DestroyScheduled},
	},
	Deactivated: {
		EventActivate:        {Active},
		EventSuspend:         {Suspended},
		EventRevoke:          {Compromised},
		EventArchive:         {Archived},
		EventScheduleDestroy: {DestroyScheduled},
		EventDelete:          {DestroyScheduled},
	},
	Archived: {
		EventRevoke:          {Compromised},
		EventScheduleDestroy: {DestroyScheduled},
		EventDelete:          {DestroyScheduled},
	},
	Compromised: {
		EventScheduleDestroy: {DestroyScheduled},
		EventDelete:          {DestroyScheduled},
	},
	DestroyScheduled: {
		EventRestore: {PreActivation, Active, Deactivated, Archived, Suspended, Compromised},
		EventRevoke:  {DestroyScheduled}, // and compromised, should it be restored
		EventDestroy: {Destroyed},
	},
	Destroyed: {},
}

// States returns every state, in the order of a version's life.
func States() []State {
	return []State{PreActivation, Active, Suspended, Deactivated, Archived, Compromised, DestroyScheduled, Destroyed}
}

// Known reports whether s is one of the states.
func (s State) Known() bool { _, ok := transitions[s]; return ok }

// Transition returns the states that ev may lead to from s. It is the only
// judge of what may happen to a version. The error is ErrVersionState.
func Transition(s State, ev Event) ([]State, error) {
	to, ok := transitions[s][ev]
	if !ok {
		return nil, Errorf(ErrVersionState, "a version that is %s cannot be changed by %q", s, ev)
	}
	return to, nil
}

// Use is what a request wants to do with a version.
type Use string

// The uses. SP 800-57 calls the first "applying" and the second "processing"
// cryptographic protection.
const (
	UseApply   Use = "apply"   // sign, MAC, encrypt
	UseProcess Use = "process" // verify, decrypt
	UseRecover Use = "recover" // process, with the extra permission
)

// CheckUse reports whether a version in state s serves the use. A version in
// pre-activation already processes: another gateway's clock may be ahead, and
// its signatures must verify. The error is ErrVersionState and names the
// state.
func (s State) CheckUse(u Use) error {
	ok := false
	switch s {
	case Active:
		ok = true
	case PreActivation, Deactivated:
		ok = u != UseApply
	case Archived, Compromised:
		ok = u == UseRecover
	}
	if ok {
		return nil
	}
	return Errorf(ErrVersionState, "the version is %s and may not %s", s, map[Use]string{
		UseApply:   "sign or encrypt",
		UseProcess: "verify or decrypt",
		UseRecover: "be recovered from",
	}[u])
}

// Published reports whether the version's public key belongs in JWKS.
func (s State) Published() bool {
	return s == PreActivation || s == Active || s == Deactivated
}
