package consume

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/ackmap"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// Limits of what clients may ask for. They are part of the API.
const (
	DefaultLease       = 30 * time.Second
	MinLease           = time.Second
	MaxLease           = 12 * time.Hour
	DefaultMaxInFlight = 256
	MaxMaxInFlight     = 10_000
	MaxTopics          = 64 // of one group: a bit each
	maxCauseBytes      = 1024
)

// Config is the engine's part of a node's configuration. Zero fields take the defaults named.
type Config struct {
	MaxLanes     int   // partitions of this node, all groups together; 2,000
	MaxGroups    int   // groups with clients or lanes; 2,000
	MaxLeases    int   // messages out at clients; 200,000
	FetchBytes   int64 // messages in memory, all lanes together; 512 MiB
	LaneMinBytes int   // fetch-ahead that each lane is sure of; 64 KiB
	LaneMaxBytes int   // fetch-ahead of one lane; 4 MiB
	Window       int   // offsets of a partition past the committed one; 24,000
	PullBytes    int   // of one answer to Next; 4 MiB
	// LeaveAfter is how long a group without clients stays joined; 5 min.
	LeaveAfter time.Duration
	// CommitEvery is the time from an accept to its commit; 200 ms.
	CommitEvery time.Duration
	// MapBytes a second go into ack maps at most, all groups together; 2 MB.
	MapBytes int
	// ParkAfter: longer delays go to the retry topic; 30 s.
	ParkAfter time.Duration
	// SessionTimeout of memberships in brokers' groups; 6 s.
	SessionTimeout time.Duration
}

// WithDefaults fills what was not set.
func (c Config) WithDefaults() Config {
	fill(&c.MaxLanes, 2000)
	fill(&c.MaxGroups, 2000)
	fill(&c.MaxLeases, 200_000)
	fill(&c.FetchBytes, 512<<20)
	fill(&c.LaneMinBytes, 64<<10)
	fill(&c.LaneMaxBytes, 4<<20)
	fill(&c.Window, ackmap.MaxWindow)
	fill(&c.PullBytes, 4<<20)
	fill(&c.LeaveAfter, 5*time.Minute)
	fill(&c.CommitEvery, 200*time.Millisecond)
	fill(&c.MapBytes, 2_000_000)
	fill(&c.ParkAfter, 30*time.Second)
	fill(&c.SessionTimeout, 6*time.Second)
	return c
}

func fill[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// Validate names every field that is out of range, defaults filled in.
func (c Config) Validate() error {
	c = c.WithDefaults()
	return errors.Join(
		within("max_lanes", c.MaxLanes, 1, 100_000), within("max_groups", c.MaxGroups, 1, 100_000),
		within("max_leases", c.MaxLeases, 1, 10_000_000),
		within("lane_min_bytes", c.LaneMinBytes, 1<<10, c.LaneMaxBytes), within("lane_max_bytes", c.LaneMaxBytes, 1<<10, 1<<30),
		within("fetch_bytes", c.FetchBytes, int64(c.MaxLanes)*int64(c.LaneMinBytes), 1<<40),
		within("window", c.Window, 1, ackmap.MaxWindow), within("pull_bytes", c.PullBytes, 1<<10, 64<<20),
		within("leave_after", c.LeaveAfter, time.Second, 24*time.Hour), within("commit_every", c.CommitEvery, time.Millisecond, 10*time.Second),
		within("map_bytes", c.MapBytes, 4096, 1<<30), within("park_after", c.ParkAfter, time.Second, 24*time.Hour),
		within("session_timeout", c.SessionTimeout, time.Second, 5*time.Minute),
	)
}

func within[T int | int64 | time.Duration](key string, v, low, high T) error {
	if v < low || v > high {
		return fmt.Errorf("%s is %v; it must be from %v to %v", key, v, low, high)
	}
	return nil
}

// Snapshots is where the engine looks what holds; snapshot.Holder is one.
type Snapshots interface {
	Current() *snapshot.Snapshot
	// Changed is closed at the next change. To miss none, take the channel before Current.
	Changed() <-chan struct{}
}

// Deps are what the engine needs of the node. All are required but Log, Registerer and Now.
type Deps struct {
	Clusters   Clusters
	Control    Control
	Remote     Remote
	Snapshot   Snapshots
	Node       string // this node's name in the snapshot
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // wall clock, for what clients and neighbours see
}
