// Package mq holds the words and the interfaces of a message queue: what
// Sluice asks of Kafka, RocketMQ and its own embedded store.
//
// Engines (publish, consume) and the control plane know drivers only by these
// interfaces; what a backend cannot do stands in its Caps and is asked for,
// never assumed. Every driver passes the conformance suite in mqtest.
package mq

import (
	"context"
	"strconv"
	"time"
)

// Kind is the product behind a driver.
type Kind string

// The kinds there are.
const (
	Kafka    Kind = "kafka"
	RocketMQ Kind = "rocketmq"
	Embedded Kind = "embedded"
)

// Topic is a physical topic: a name on one cluster. Logical topics, which
// applications use, are plain strings in the packages above.
type Topic string

// PartitionID names a Kafka partition or a RocketMQ message queue.
type PartitionID struct {
	Topic  Topic
	Broker string // RocketMQ's broker name; empty elsewhere
	Index  int32
}

// String is the form that applications see: "3", or "broker-1/3".
func (p PartitionID) String() string {
	n := strconv.Itoa(int(p.Index))
	if p.Broker == "" {
		return n
	}
	return p.Broker + "/" + n
}

// Partition is what is known of a partition at the moment.
type Partition struct {
	ID PartitionID
	// Replicas by broker id or name, the preferred one first. Placement orders by it.
	Replicas []string
	InSync   []string
	// Leader is the failure domain that serves it now; empty: none.
	Leader   string
	Writable bool
}

// Header is one header of a record.
type Header struct {
	Name  string
	Value []byte
}

// Record is a message as brokers know it. A nil Key is no key, an empty one is
// a key; a nil Body is a null body (tombstone), an empty one is empty.
type Record struct {
	Key     []byte
	Body    []byte
	Headers []Header
	// Tag is RocketMQ's tag; Kafka drivers carry it as header "sluice-tag".
	Tag string
	// Timestamp: zero lets the broker or the driver choose when producing.
	Timestamp time.Time
	// Offset is set on fetched records.
	Offset int64
}

// Bytes is about what the record takes on the wire and in memory.
func (r *Record) Bytes() int {
	n := len(r.Key) + len(r.Body) + len(r.Tag) + 64
	for i := range r.Headers {
		n += len(r.Headers[i].Name) + len(r.Headers[i].Value) + 8
	}
	return n
}

// Result is what became of one produced record: stored when Err is nil. An Err
// of class NotDurable is stored too, at Offset, with fewer replicas than asked.
type Result struct {
	Offset int64
	Err    error
}

// Caps are the capabilities of a backend, as found on the live cluster.
type Caps struct {
	Headers         bool // records carry headers and tags
	Idempotent      bool // a retry on the same partition makes no duplicate
	CommitMetadata  int  // bytes of ack map that a commit carries; 0: none
	NativeGroups    bool // groups are the broker's own and can be shared with native members
	FencedCommits   bool // the broker refuses commits of members that are no longer in the group
	CreateTopics    bool
	DeleteTopics    bool
	AddPartitions   bool
	DeleteGroups    bool
	TopicConfigs    bool
	DeleteRecords   bool
	TimeLookup      bool // offsets by time
	SyncedBeforeAck bool // an acknowledged record survives a power cut of all replicas
	MaxRecordBytes  int  // largest record that the cluster takes by default; topics may differ
	Version         string
}

// Driver is one cluster. All methods may be called at once from many
// goroutines. Close ends everything that was made from it.
type Driver interface {
	Kind() Kind
	// Caps asks the cluster once and remembers; it fails while the cluster was never reached.
	Caps(ctx context.Context) (Caps, error)
	Producer() Producer
	// Group joins a consumer group; it returns before the first assignment.
	Group(ctx context.Context, cfg GroupConfig) (Group, error)
	Reader() Reader
	Admin() Admin
	// Probe asks each broker for a sign of life; it takes at most ctx's deadline and never fails as a whole.
	Probe(ctx context.Context) []BrokerHealth
	Close(ctx context.Context) error
}

// BrokerHealth is the answer of one broker to a probe.
type BrokerHealth struct {
	Broker     string
	Address    string
	Controller bool
	Rack       string
	Latency    time.Duration
	Err        error
}

// Producer writes.
type Producer interface {
	// Partitions lists a topic's partitions, sorted by ID, from a cache that is at most some
	// seconds old. An unknown topic is an error of class NotFound.
	Partitions(ctx context.Context, topic Topic) ([]Partition, error)
	// Produce appends records in order to one partition and calls done exactly once, with a
	// result per record, from a goroutine of the driver: done must not block.
	//
	// ctx bounds the first transmission and the waiting, not the write: at ctx's end records
	// that were never sent get class Timeout without MaybeSent; for those in flight done is
	// called with MaybeSent while the write runs on to the driver's own deadline, and its
	// outcome is still counted. Nothing moves to another partition. The record slices and their
	// bytes belong to the driver until done, and must not change after it either while a
	// MaybeSent write may still be running.
	Produce(ctx context.Context, p PartitionID, records []Record, done func([]Result))
}

// Limits bound a fetch.
type Limits struct {
	MaxBytes   int
	MaxRecords int
	MaxWait    time.Duration
}

// Batch is what a fetch brought.
type Batch struct {
	Records []Record
	// Next is the offset to fetch from next; it passes gaps (compaction, aborted transactions,
	// control records), so it can grow without records.
	Next          int64
	HighWatermark int64
	// Reset: the asked offset was out of range or the topic was made anew; Next is where to go on, no records.
	Reset *Reset
}

// Reset says why a fetch could not go on where it stood.
type Reset struct {
	// Earliest is the first offset there is now.
	Earliest int64
	// Lost is how many offsets fell to retention; 0 where it cannot be told.
	Lost int64
	// Recreated: the topic is not the one that the offset was committed on.
	Recreated bool
}

// Commit is a group's position in a partition: everything below Offset is done,
// and what Map says of beyond it (an encoded ackmap; may be empty).
type Commit struct {
	Offset int64
	Map    string
}

// Start says where a group without a position begins.
type Start struct {
	At   StartAt
	Time time.Time // with AtTime
}

// StartAt is the kind of a start position.
type StartAt int

// Start positions.
const (
	Earliest StartAt = iota
	Latest
	AtTime
)

// GroupConfig is what a member brings to a group.
type GroupConfig struct {
	Group  string
	Topics []Topic
	Start  map[Topic]Start // missing: Earliest
	// Member is a name for logs and native tools (client id).
	Member         string
	SessionTimeout time.Duration // 0: 6 s
	// RebalanceTimeout is the longest time between Next and Done; 0: 30 s.
	RebalanceTimeout time.Duration
}

// Assignment is a change of what this member owns. Epoch grows with each one.
type Assignment struct {
	Epoch   int64
	Owned   []PartitionID // all that is owned after Added, and before Done for the Revoked ones
	Added   []PartitionID
	Revoked []PartitionID // drain, commit, then Done(Epoch)
	Lost    []PartitionID // gone already: commits will be refused
}

// Group is one membership. Next and Done are called by one goroutine, the rest by any.
type Group interface {
	// Next waits for a change. It fails with class Fenced or Fatal when the membership cannot go
	// on; the caller makes a new one. Class Invalid with the word "assignor" or "protocol" means that
	// native members make sharing impossible.
	Next(ctx context.Context) (Assignment, error)
	// Done says that the revoked partitions of that assignment are drained and committed.
	Done(epoch int64)
	// Fetch reads committed records of an owned partition, waiting up to Limits.MaxWait for the first.
	Fetch(ctx context.Context, p PartitionID, offset int64, l Limits) (Batch, error)
	// Committed reads the group's positions; partitions without one are resolved by Start (and
	// committed, so that a later joiner begins at the same place).
	Committed(ctx context.Context, ps []PartitionID) (map[PartitionID]Commit, error)
	// Commit stores positions and returns after the broker's answer, with an entry for each
	// partition that failed. A partition that is not owned in that epoch fails with class Fenced.
	Commit(ctx context.Context, epoch int64, cs map[PartitionID]Commit) map[PartitionID]error
	// Close leaves the group explicitly, so that the others take over at once.
	Close(ctx context.Context) error
}

// Reader reads without a group.
type Reader interface {
	Fetch(ctx context.Context, p PartitionID, offset int64, l Limits) (Batch, error)
	// Offsets resolves a position in each partition: Earliest, Latest (log end) or AtTime.
	Offsets(ctx context.Context, ps []PartitionID, at Start) (map[PartitionID]int64, error)
}

// TopicSpec describes a topic to create.
type TopicSpec struct {
	Name       Topic
	Partitions int
	Replicas   int // 0: the cluster's default
	Config     map[string]string
}

// TopicDetail is a topic as the cluster describes it.
type TopicDetail struct {
	Name       Topic
	ID         string // Kafka's topic id, where it has one
	Internal   bool
	Partitions []Partition
	Config     map[string]string // what was asked for; sensitive values left out
	// MaxMessageBytes is the topic's own limit; 0: unknown.
	MaxMessageBytes int
	MinInSync       int
}

// GroupDetail is a group as the cluster describes it.
type GroupDetail struct {
	Name     string
	State    string
	Protocol string // assignment strategy
	Members  []GroupMember
}

// GroupMember is one member of a broker's group.
type GroupMember struct {
	ID, Client, Host string
	Partitions       []PartitionID
}

// Admin manages a cluster. Calls that a cluster cannot do fail with class Unsupported.
type Admin interface {
	// Topics describes the named topics, or lists all without configs when none is named.
	Topics(ctx context.Context, names ...Topic) ([]TopicDetail, error)
	CreateTopic(ctx context.Context, spec TopicSpec) error
	DeleteTopic(ctx context.Context, name Topic) error
	SetTopicConfig(ctx context.Context, name Topic, config map[string]string) error
	AddPartitions(ctx context.Context, name Topic, total int) error
	// DeleteRecords deletes everything below the offsets.
	DeleteRecords(ctx context.Context, below map[PartitionID]int64) error
	Groups(ctx context.Context) ([]string, error)
	DescribeGroup(ctx context.Context, name string) (GroupDetail, error)
	// GroupOffsets reads committed positions without joining; partitions without one are missing.
	GroupOffsets(ctx context.Context, name string) (map[PartitionID]Commit, error)
	// SetGroupOffsets stores positions of a group that has no members.
	SetGroupOffsets(ctx context.Context, name string, cs map[PartitionID]Commit) error
	DeleteGroup(ctx context.Context, name string) error
}
