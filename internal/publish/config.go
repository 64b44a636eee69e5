package publish

import (
	"errors"
	"fmt"
	"time"
)

// What one request and one message may hold. They are part of the API.
const (
	MaxMessages       = 1000
	MaxRequestBytes   = 8 << 20
	MaxMessageBytes   = 4 << 20
	MaxHeaders        = 64
	MaxHeaderBytes    = 16 << 10
	MaxIDLength       = 128
	MaxTagBytes       = 255
	MaxTopicLength    = 249
	MaxTimeout        = time.Minute
	DefaultTimeout    = 10 * time.Second
	brokerOverhead    = 512     // of a record batch with one record: framing, id and tag headers
	unknownTopicLimit = 1 << 20 // Kafka's default, where neither topic nor cluster told
)

// Config is the engine's part of a node's configuration.
type Config struct {
	// MaxInFlightBytes bounds the messages of all apps that are not settled; 0: 256 MiB.
	MaxInFlightBytes int64
	// MaxAppInFlightBytes bounds those of one app; 0: 64 MiB.
	MaxAppInFlightBytes int64
	// AppRateMessages and AppRateBytes are what one app may publish a second through this node; 0: no limit.
	AppRateMessages int64
	AppRateBytes    int64
	// AutoCreate makes a topic that does not exist at its first use (--dev).
	AutoCreate bool
	// MaxTopicLabels bounds the topic label of the metrics: topics beyond it count as "other"; 0: 200.
	MaxTopicLabels int
}

// WithDefaults fills what was not set.
func (c Config) WithDefaults() Config {
	if c.MaxInFlightBytes == 0 {
		c.MaxInFlightBytes = 256 << 20
	}
	if c.MaxAppInFlightBytes == 0 {
		c.MaxAppInFlightBytes = min(64<<20, c.MaxInFlightBytes)
	}
	if c.MaxTopicLabels == 0 {
		c.MaxTopicLabels = 200
	}
	return c
}

// Validate names every value that is out of range.
func (c Config) Validate() error {
	c = c.WithDefaults()
	var errs []error
	// Below this a request of the largest size would be told to slow down for ever.
	const least = 2 * MaxRequestBytes
	if c.MaxInFlightBytes < least {
		errs = append(errs, fmt.Errorf("max_in_flight_bytes is %d: at least %d (two requests of the largest size) is needed", c.MaxInFlightBytes, least))
	}
	if c.MaxAppInFlightBytes < least || c.MaxAppInFlightBytes > c.MaxInFlightBytes {
		errs = append(errs, fmt.Errorf("max_app_in_flight_bytes is %d: from %d to max_in_flight_bytes is allowed", c.MaxAppInFlightBytes, least))
	}
	if c.AppRateMessages < 0 || c.AppRateBytes < 0 {
		errs = append(errs, errors.New("app_rate_messages and app_rate_bytes must not be negative; 0 is no limit"))
	}
	if c.MaxTopicLabels < 0 {
		errs = append(errs, errors.New("max_topic_labels must not be negative"))
	}
	return errors.Join(errs...)
}
