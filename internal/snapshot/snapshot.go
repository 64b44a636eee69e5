// Package snapshot is what data-plane nodes know of the platform: clusters,
// topics and their homes, groups and their settings, nodes, credentials'
// hashes, receipt keys.
//
// A Snapshot is immutable. The Holder keeps the newest one behind an atomic
// pointer and on disk, so that a node goes on while the control plane is away,
// through a restart of its own too (promise 7).
package snapshot

import (
	"slices"
	"time"

	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/secret"
)

// Snapshot is one version of everything. Never change one that was published.
type Snapshot struct {
	Version  uint64
	StoreID  string // of the control store; a node refuses snapshots of another one
	Clusters map[string]*Cluster
	Topics   map[string]*Topic // by logical name
	Groups   map[string]*Group
	Nodes    map[string]*Node
	Tokens   map[[32]byte]*Token // by SHA-256 of the token
	// ReceiptKeys: the first one signs, all of them verify.
	ReceiptKeys []ReceiptKey
	// SetupDone: an administrator exists. Until then nothing but health answers (except with --dev).
	SetupDone bool
}

// Cluster is a cluster as drivers need it; secrets are sealed.
type Cluster struct {
	Name, Datacenter, Side string
	Kind                   mq.Kind
	Bootstrap              []string
	SASLMechanism          string // "", PLAIN, SCRAM-SHA-256, SCRAM-SHA-512
	SASLUser               string
	SealedPassword         []byte
	TLS                    bool
	TLSCA, TLSCert         []byte // PEM
	SealedKey              []byte
	TLSServerName          string
	Node                   string // embedded: the node that holds its folder
	Version                uint64
}

// Topic is a logical topic and its homes; part of a route.
type Topic struct {
	Name  string
	Epoch uint64
	Homes []Home // one, until routes come
	Order string // none, available, strict
	Block int    // block size of un-keyed placement; at least 1
	Owner string
	// Limits of one node for all producers together; 0: none.
	RateMessages, RateBytes int64
	Version                 uint64
}

// Home is a physical topic on a cluster.
type Home struct {
	Cluster string
	Topic   mq.Topic
	// Partitions is the pinned count that placement uses; 0: the topic's own.
	Partitions int
}

// Order is what a group is promised.
type Order int

// Order modes; the zero value is "unstated".
const (
	OrderUnset Order = iota
	OrderNone
	OrderKey
	OrderPartition
)

// Group is a consumer group and its subscriptions.
type Group struct {
	Name          string
	Subscriptions map[string]Settings // by logical topic
	Paused        bool
	Suspended     bool
	Nodes         int // how many nodes serve it; 0: 3
	Version       uint64
}

// Settings are what all clients of a group share for one topic. A zero field is
// unstated; WithDefaults fills them.
type Settings struct {
	Order       Order
	Start       string // "", earliest, latest, RFC 3339
	MaxAttempts int
	BackoffMin  time.Duration
	BackoffMax  time.Duration
	Drain       time.Duration // how long a lane waits for open leases when it moves
	Takeover    string        // deliver, wait_lease
	Run         int           // most messages of one ordered run
}

// WithDefaults fills what was not stated.
func (s Settings) WithDefaults() Settings {
	if s.Order == OrderUnset {
		s.Order = OrderNone
	}
	if s.Start == "" {
		s.Start = "earliest"
	}
	if s.MaxAttempts == 0 {
		s.MaxAttempts = 16
	}
	if s.BackoffMin == 0 {
		s.BackoffMin = time.Second
	}
	if s.BackoffMax == 0 {
		s.BackoffMax = 5 * time.Minute
	}
	if s.Drain == 0 {
		s.Drain = 5 * time.Second
	}
	if s.Takeover == "" {
		s.Takeover = "deliver"
	}
	if s.Run == 0 {
		s.Run = 16
	}
	return s
}

// Node is one running process.
type Node struct {
	Name, GRPC, HTTP, Datacenter, Build string
	Roles                               []string
	Draining, Alive                     bool
}

// HasRole tells whether the node has that role.
func (n *Node) HasRole(role string) bool {
	return slices.Contains(n.Roles, role)
}

// Token is a credential.
type Token struct {
	ID, App, Kind string // kind: app, admin
	Hash          [32]byte
	Expires       time.Time // zero: never
}

// ReceiptKey is one key of the ring.
type ReceiptKey struct {
	ID  uint32
	Key []byte
}

// PasswordPlace is where SealedPassword belongs.
func (c *Cluster) PasswordPlace() secret.Place {
	return secret.Place{Table: "clusters", Row: c.Name, Column: "sasl_password"}
}

// KeyPlace is where SealedKey belongs.
func (c *Cluster) KeyPlace() secret.Place {
	return secret.Place{Table: "clusters", Row: c.Name, Column: "tls_key"}
}
