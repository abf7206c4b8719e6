package api

// Event tells what happened to a version of a key. It is the data of a
// server-sent event whose id is ID and whose event field is Type.
type Event struct {
	ID       uint64 `json:"id"`
	Type     string `json:"type"` // version.announced, version.activated ...
	Time     Time   `json:"time"`
	Key      string `json:"key"`
	Version  uint32 `json:"version,omitzero"`
	KeyID    string `json:"kid,omitempty"`
	When     Time   `json:"when,omitzero"` // of the switch or destruction to come, else of the change
	Rotation string `json:"rotation,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// EventReset is sent as an event of this type when a stream cannot go on
// where the caller left it: the events between are gone. Read the keys anew.
const EventReset = "reset"

// Subscription says that the caller is counted in a key's acknowledgements.
type Subscription struct {
	Key   string `json:"key"`
	Since Time   `json:"since"`
	// Waiting are the published versions that the caller has not acknowledged.
	Waiting []uint32 `json:"waiting"`
}

// SubscriptionList lists the caller's subscriptions.
type SubscriptionList struct {
	Subscriptions []Subscription `json:"subscriptions"`
}

// Ack is an acknowledgement that is entered.
type Ack struct {
	Key            string `json:"key"`
	Version        uint32 `json:"version"`
	KeyID          string `json:"kid"`
	AcknowledgedAt Time   `json:"acknowledged_at"`
}
