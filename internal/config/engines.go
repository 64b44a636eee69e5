package config

import (
	"fmt"
	"time"

	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/mq/embedded"
	"github.com/sluice-mq/sluice/internal/mq/kafka"
	"github.com/sluice-mq/sluice/internal/publish"
	"github.com/sluice-mq/sluice/internal/rpc"
)

// engines are the settings of the packages that move messages, each under its own section. What the node decides
// itself (addresses, folders, credentials) is not among their keys.
type engines struct {
	RPC     rpc.Config
	Publish publish.Config
	Consume consume.Config
	Kafka   kafka.Config
}

// engineEmbedded are the settings of the embedded store.
type engineEmbedded struct {
	Store embedded.Config
}

func (c *Config) setEngineDefaults() {
	c.RPC = rpc.DefaultConfig()
	c.Publish = publish.Config{}.WithDefaults()
	c.Consume = consume.Config{}.WithDefaults()
	c.Kafka = kafka.DefaultConfig()
	c.Embedded.Store = embedded.DefaultConfig()
}

// validateEngines asks the packages about what their single keys cannot know.
func (c *Config) validateEngines(fault func(key, text string)) {
	if err := c.Publish.Validate(); err != nil {
		fault("publish.max_in_flight", err.Error())
	}
	if err := c.Consume.Validate(); err != nil {
		fault("consume.max_lanes", err.Error())
	}
	store := c.Embedded.Store
	store.Dir = "embedded" // the node sets it
	if err := store.Validate(); err != nil {
		fault("embedded.queue", fmt.Sprintf("%v", err))
	}
	brokers := c.Kafka
	brokers.Bootstrap = []string{"127.0.0.1:9092"} // each cluster's own
	if err := brokers.Validate(); err != nil {
		fault("kafka.compression", err.Error())
	}
}

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
	tib = int64(1) << 40
)

func bindEngines(b *binder, c *Config) {
	r := &c.RPC
	b.integer("limits.connections", &r.MaxConnections, 1, 1_000_000, "Connections that each listener takes; one more is refused.")
	b.integer("limits.connections_per_address", &r.MaxConnectionsPerAddress, 0, 1_000_000, "Connections of one client address, the loopback exempt. 0: no bound.")
	b.integer("limits.streams", &r.MaxStreams, 1, 100_000, "Calls at once on one connection.")
	size(b, "limits.request", &r.MaxRequestBytes, 64*kib, 64*mib, "Largest request, after decompression.")
	b.duration("limits.connection_age", &r.ConnectionAge, 0, 24*time.Hour, "When clients are asked to connect anew, so that load spreads again after nodes restarted. 0s: never.")

	p := &c.Publish
	size(b, "publish.max_in_flight", &p.MaxInFlightBytes, mib, tib, "Messages of all apps that are not settled; beyond it callers are told to slow down.")
	size(b, "publish.max_app_in_flight", &p.MaxAppInFlightBytes, mib, tib, "The same for one app.")

	s := &c.Consume
	b.integer("consume.max_lanes", &s.MaxLanes, 1, 100_000, "Partitions that this node serves, all groups together.")
	b.integer("consume.max_groups", &s.MaxGroups, 1, 100_000, "Groups with clients or lanes.")
	b.integer("consume.max_leases", &s.MaxLeases, 1, 10_000_000, "Messages out at clients.")
	size(b, "consume.fetch", &s.FetchBytes, mib, tib, "Messages in memory, all lanes together.")
	size(b, "consume.lane_min", &s.LaneMinBytes, kib, gib, "Fetch-ahead that each lane is sure of.")
	size(b, "consume.lane_max", &s.LaneMaxBytes, kib, gib, "Fetch-ahead of one lane.")
	b.integer("consume.window", &s.Window, 1, 24_000, "Offsets of a partition past the committed one.")
	b.duration("consume.leave_after", &s.LeaveAfter, time.Second, 24*time.Hour, "How long a group without clients stays joined.")
	b.duration("consume.commit_every", &s.CommitEvery, time.Millisecond, 10*time.Second, "Time from an accept to its commit.")
	b.duration("consume.park_after", &s.ParkAfter, time.Second, time.Hour, "Longer delays of un-ordered groups go to the retry topic.")
	b.duration("consume.session_timeout", &s.SessionTimeout, time.Second, 5*time.Minute, "Session of this node in brokers' groups; a node that died is noticed after it.")

	k := &c.Kafka
	b.enum("kafka.compression", &k.Compression, []string{"none", "lz4", "snappy", "zstd", "gzip"}, "Compression of what this node produces.")
	b.duration("kafka.produce_timeout", &k.ProduceTimeout, 100*time.Millisecond, time.Minute, "How long a broker may wait for its replicas.")
	b.duration("kafka.leader_wait", &k.LeaderWait, 0, time.Minute, "How long records wait for a leader before they fail as not sent.")
	b.duration("kafka.hang_timeout", &k.HangTimeout, time.Second, 5*time.Minute, "How long the outcome of a write is asked for before it is given up.")
	size(b, "kafka.partition_bytes", &k.PartitionBytes, mib, gib, "What waits and is in flight for one partition.")
	size(b, "kafka.produce_bytes", &k.ProduceBytes, mib, tib, "What waits and is in flight for one cluster.")
	size(b, "kafka.fetch_buffer", &k.FetchBuffer, mib, gib, "What one group holds ahead of its lanes.")

	e := &c.Embedded.Store
	b.enum("embedded.durability", (*string)(&e.Durability), []string{string(embedded.Sync), string(embedded.Process)}, "What an acknowledgement survives: sync, a power cut; process, a crash of the process only.")
	b.duration("embedded.retention", &e.RetentionTime, time.Second, 10*365*24*time.Hour, "Messages older than this are deleted.")
	size(b, "embedded.retention_bytes", &e.RetentionBytes, mib, 1024*tib, "Beyond this size the oldest messages are deleted.")
	size(b, "embedded.min_free", &e.MinFreeBytes, 0, 1024*tib, "Below this much free disk publishing is refused, reading goes on. 0: 5 % of the disk.")
	size(b, "embedded.queue", &e.QueueBytes, mib, tib, "Unsynced messages that may wait.")
	size(b, "embedded.cache", &e.CacheBytes, mib, tib, "Block cache.")
}
