package keys

import "time"

// NoticeType says what a Notice tells.
type NoticeType string

// The types. A version that is activated or deactivated by the clock is told
// soon after; NoticeScheduled says the moment ahead.
const (
	NoticeAnnounced        NoticeType = "version.announced"
	NoticeScheduled        NoticeType = "version.scheduled"
	NoticeActivated        NoticeType = "version.activated"
	NoticeDeactivated      NoticeType = "version.deactivated"
	NoticeSuspended        NoticeType = "version.suspended"
	NoticeResumed          NoticeType = "version.resumed"
	NoticeRevoked          NoticeType = "version.revoked"
	NoticeArchived         NoticeType = "version.archived"
	NoticeDestroyScheduled NoticeType = "version.destroy-scheduled"
	NoticeRestored         NoticeType = "version.restored"
	NoticeDestroyed        NoticeType = "version.destroyed"
	NoticeAborted          NoticeType = "rotation.aborted"
	NoticeKeyDeleted       NoticeType = "key.deleted"
)

// NoticeTypes returns every type.
func NoticeTypes() []NoticeType {
	return []NoticeType{
		NoticeAnnounced, NoticeScheduled, NoticeActivated, NoticeDeactivated, NoticeSuspended, NoticeResumed, NoticeRevoked,
		NoticeArchived, NoticeDestroyScheduled, NoticeRestored, NoticeDestroyed, NoticeAborted, NoticeKeyDeleted,
	}
}

// Notice tells those who follow a key what happened to a version. It is
// written in the same transaction as the change itself.
type Notice struct {
	ID       uint64 // given by the store; grows, with gaps
	Type     NoticeType
	At       time.Time // when it was written
	Key      string
	Version  uint32    // 0 for NoticeKeyDeleted
	When     time.Time // NoticeScheduled: the switch; NoticeDestroyScheduled: the destruction; else the moment of the change
	Rotation string    // id, or ""
	Reason   string    // a Reason or a note; safe to show to whoever may read the key
}
