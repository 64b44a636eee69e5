package embedded

import (
	"errors"
	"fmt"
	"time"
)

// Durability says what an acknowledgement is worth.
type Durability string

// The durabilities.
const (
	// Sync: acknowledged records survive a power cut (as far as the disk keeps what it calls synced).
	Sync Durability = "sync"
	// Process: acknowledged records survive a crash of the process, not one of the machine.
	Process Durability = "process"
)

// Config of a store; zero fields take their defaults.
type Config struct {
	Dir               string        // required; one process at a time
	Durability        Durability    // Sync
	RetentionTime     time.Duration // 7 days; a topic's retention.ms overrides it
	RetentionBytes    int64         // 10 GiB in all topics together
	MaxRecordBytes    int           // 4 MiB; a topic's max.message.bytes overrides it downwards
	MinFreeBytes      int64         // below this much free space writes are refused; 0: 5 % of the disk, at least 64 MiB
	DefaultPartitions int           // 4
	QueueBytes        int           // 64 MiB: unsynced records that may wait; more are answered Busy
	CacheBytes        int64         // 32 MiB of block cache
	MemTableBytes     int           // 16 MiB; up to three of them are in memory
	RetentionInterval time.Duration // 30 s
}

func (c Config) withDefaults() Config {
	def(&c.Durability, Sync)
	def(&c.RetentionTime, 7*24*time.Hour)
	def(&c.RetentionBytes, 10<<30)
	def(&c.MaxRecordBytes, 4<<20)
	def(&c.DefaultPartitions, 4)
	def(&c.QueueBytes, 64<<20)
	def(&c.CacheBytes, 32<<20)
	def(&c.MemTableBytes, 16<<20)
	def(&c.RetentionInterval, 30*time.Second)
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// maxRecordBytes is the largest limit: a record is held in memory several times on its way.
const maxRecordBytes = 64 << 20

// Validate names every setting that cannot be.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	bad := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf("embedded store: "+format, args...))
		}
	}
	bad(c.Dir == "", "no folder; set one")
	bad(c.Durability != Sync && c.Durability != Process, "durability %q; it is %q or %q", c.Durability, Sync, Process)
	bad(c.RetentionTime < time.Second, "retention of %v; at least 1s", c.RetentionTime)
	bad(c.RetentionBytes < 1<<20, "retention of %d bytes; at least 1 MiB", c.RetentionBytes)
	bad(c.MaxRecordBytes < 1024 || c.MaxRecordBytes > maxRecordBytes, "largest record %d bytes; from 1 KiB to 64 MiB", c.MaxRecordBytes)
	bad(c.MinFreeBytes < 0, "free space of %d bytes; 0 or more", c.MinFreeBytes)
	bad(c.DefaultPartitions < 1 || c.DefaultPartitions > maxPartitions, "%d default partitions; from 1 to %d", c.DefaultPartitions, maxPartitions)
	bad(c.QueueBytes < 2*c.MaxRecordBytes, "queue of %d bytes; at least twice the largest record (%d)", c.QueueBytes, c.MaxRecordBytes)
	bad(c.CacheBytes < 1<<20, "block cache of %d bytes; at least 1 MiB", c.CacheBytes)
	bad(c.MemTableBytes < 1<<20 || c.MemTableBytes > 1<<30, "memtable of %d bytes; from 1 MiB to 1 GiB", c.MemTableBytes)
	bad(c.RetentionInterval < time.Millisecond, "retention every %v; at least 1ms", c.RetentionInterval)
	return errors.Join(errs...)
}

// DefaultConfig is the configuration with every default filled in; Dir is still to be set.
func DefaultConfig() Config { return Config{}.withDefaults() }
