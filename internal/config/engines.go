package config

// engines are the settings of the packages that move messages, each under its own section.
type engines struct{}

// engineEmbedded are the settings of the embedded store.
type engineEmbedded struct{}

func (c *Config) setEngineDefaults() {}

func (c *Config) validateEngines(func(key, text string)) {}

func bindEngines(*binder, *Config) {}
