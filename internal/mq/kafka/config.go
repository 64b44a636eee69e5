package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// Config says how to reach a cluster and what bounds the driver keeps. Zero fields take the default.
type Config struct {
	// Bootstrap are the addresses "host:port" to learn the cluster from. They are resolved
	// again at every new connection, so a cluster may move.
	Bootstrap []string
	ClientID  string // default "sluice"
	SASL      SASL
	// TLS: nil is plain text. GetTLS, if set, wins and is asked for every new connection, so that certificates can be renewed.
	TLS    *tls.Config
	GetTLS func() (*tls.Config, error)
	// Dial replaces TCP, for tests in one process. TLS is not put on top of it.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	DialTimeout time.Duration // default 2 s
	// ProduceTimeout is how long a broker may wait for its replicas; RequestOverhead is added for the way. 3 s and 1 s.
	ProduceTimeout  time.Duration
	RequestOverhead time.Duration
	// AdminTimeout bounds one request of Admin, of offsets and commits; default 5 s.
	AdminTimeout time.Duration
	// LeaderWait is how long records wait for a leader that can be reached before they fail as not sent; default 2 s.
	LeaderWait time.Duration
	// HangTimeout is how long the outcome of a write is asked for before it is given up; default 30 s.
	HangTimeout time.Duration

	// Compression of produced batches: none (default), lz4, snappy, zstd, gzip.
	Compression string
	InFlight    int // produce requests in flight per broker; default 2
	// PartitionBytes and ProduceBytes bound what waits and is in flight, for one partition and for
	// all; beyond them Produce answers Busy. 32 and 256 MiB.
	PartitionBytes int
	ProduceBytes   int
	// FetchBytes bounds what one fetch brings of one partition (but a larger record comes alone), 1 MiB;
	// FetchBuffer what a group holds ahead of its lanes, 32 MiB; MaxBatch what a batch may decompress to, 16 MiB.
	FetchBytes  int
	FetchBuffer int
	MaxBatch    int
	// FetchWait is the long poll where all partitions of a broker are waiting; default 5 s.
	FetchWait time.Duration
}

// SASL are credentials. The zero value is none.
type SASL struct {
	Mechanism string // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512
	User      string
	Password  string
}

// Mechanisms of SASL.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

func (c *Config) setDefaults() {
	or := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	orInt := func(p *int, n int) {
		if *p == 0 {
			*p = n
		}
	}
	if c.ClientID == "" {
		c.ClientID = "sluice"
	}
	or(&c.DialTimeout, 2*time.Second)
	or(&c.ProduceTimeout, 3*time.Second)
	or(&c.RequestOverhead, time.Second)
	or(&c.AdminTimeout, 5*time.Second)
	or(&c.LeaderWait, 2*time.Second)
	or(&c.HangTimeout, 30*time.Second)
	or(&c.FetchWait, 5*time.Second)
	if c.Compression == "" {
		c.Compression = "none"
	}
	orInt(&c.InFlight, 2)
	orInt(&c.PartitionBytes, 32<<20)
	orInt(&c.ProduceBytes, 256<<20)
	orInt(&c.FetchBytes, 1<<20)
	orInt(&c.FetchBuffer, 32<<20)
	orInt(&c.MaxBatch, 16<<20)
}

// Validate names every field that cannot be used.
func (c Config) Validate() error {
	c.setDefaults()
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Bootstrap) == 0 {
		bad("bootstrap: at least one address host:port is needed")
	}
	for _, a := range c.Bootstrap {
		host, port, err := net.SplitHostPort(a)
		if n, perr := strconv.Atoi(port); err != nil || host == "" || perr != nil || n < 1 || n > 65535 {
			bad("bootstrap: %q is not host:port", a)
		}
	}
	switch c.SASL.Mechanism {
	case "":
		if c.SASL.User != "" || c.SASL.Password != "" {
			bad("sasl: user and password need a mechanism (%s, %s or %s)", Plain, ScramSHA256, ScramSHA512)
		}
	case Plain, ScramSHA256, ScramSHA512:
		if c.SASL.User == "" {
			bad("sasl: user is missing")
		}
	default:
		bad("sasl: mechanism %q is not one of %s, %s, %s", c.SASL.Mechanism, Plain, ScramSHA256, ScramSHA512)
	}
	if _, ok := codecs[c.Compression]; !ok {
		bad("compression: %q is not one of none, lz4, snappy, zstd, gzip", c.Compression)
	}
	for name, d := range map[string]time.Duration{
		"dial timeout": c.DialTimeout, "produce timeout": c.ProduceTimeout, "request overhead": c.RequestOverhead,
		"admin timeout": c.AdminTimeout, "leader wait": c.LeaderWait, "hang timeout": c.HangTimeout, "fetch wait": c.FetchWait,
	} {
		if d < 100*time.Millisecond || d > 15*time.Minute {
			bad("%s: %v is not within 100ms to 15m", name, d)
		}
	}
	for name, n := range map[string]int{
		"partition bytes": c.PartitionBytes, "produce bytes": c.ProduceBytes, "fetch bytes": c.FetchBytes,
		"fetch buffer": c.FetchBuffer, "max batch": c.MaxBatch,
	} {
		if n < 64<<10 || n > 1<<30 {
			bad("%s: %d is not within 64 KiB to 1 GiB", name, n)
		}
	}
	if c.InFlight < 1 || c.InFlight > 16 {
		bad("in flight: %d is not within 1 to 16", c.InFlight)
	}
	return errors.Join(errs...)
}

// DefaultConfig is the configuration with every default filled in; Bootstrap is still to be set.
func DefaultConfig() Config {
	var c Config
	c.setDefaults()
	return c
}
