package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

// LogConfig says how a node logs.
type LogConfig struct {
	Format string // text or json
	Level  string // debug, info, warn, error
	Repeat int    // lines a second and place in the code
}

// DefaultLogConfig is text from info on, 10 lines a second and place.
func DefaultLogConfig() LogConfig { return LogConfig{Format: "text", Level: "info", Repeat: 10} }

// Logger is a logger and the means to change it while it runs.
type Logger struct {
	*slog.Logger
	level    *slog.LevelVar
	sampling *sampler
}

// NewLogger writes lines to w, which must take concurrent writes as os.Stderr does.
func NewLogger(w io.Writer, cfg LogConfig) (*Logger, error) {
	l := &Logger{level: &slog.LevelVar{}}
	if err := l.SetLevel(cfg.Level); err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: l.level, ReplaceAttr: utc}
	var h slog.Handler
	switch cfg.Format {
	case "text", "":
		h = slog.NewTextHandler(w, opts)
	case "json":
		h = slog.NewJSONHandler(w, opts)
	default:
		return nil, fmt.Errorf("log format %q: is not text or json", cfg.Format)
	}
	repeat := cfg.Repeat
	if repeat <= 0 {
		repeat = DefaultLogConfig().Repeat
	}
	l.sampling = newSampler(repeat, time.Now)
	l.Logger = slog.New(&samplingHandler{next: h, sampler: l.sampling})
	return l, nil
}

// SetLevel changes the level while the logger runs; any goroutine may call it.
func (l *Logger) SetLevel(name string) error {
	var level slog.Level
	switch name {
	case "debug":
		level = slog.LevelDebug
	case "info", "":
		level = slog.LevelInfo
	case "warn":
		level = slog.LevelWarn
	case "error":
		level = slog.LevelError
	default:
		return fmt.Errorf("log level %q: is not debug, info, warn or error", name)
	}
	l.level.Set(level)
	return nil
}

// Flush logs the counts of lines that were suppressed and never followed by another one.
func (l *Logger) Flush() { l.sampling.flush() }

// utc writes times in UTC: logs of several nodes are read side by side.
func utc(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		a.Value = slog.TimeValue(a.Value.Time().UTC())
	}
	return a
}
