package systemd

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/godbus/dbus/v5"
)

const (
	busName  = "org.freedesktop.systemd1"
	busPath  = "/org/freedesktop/systemd1"
	property = "org.freedesktop.DBus.Properties.Get"

	// mostJobs is how many jobs of the unit may end while they are asked about.
	mostJobs = 10

	unknownObject = "org.freedesktop.DBus.Error.UnknownObject"
)

// Restarting says whether the service that is being stopped will be started again, and how many files systemd has
// stored for it: it asks for the unit's job, org.freedesktop.systemd1(5). A machine that shuts down stops its services.
// Without an answer it returns the error with true and the largest int, as if everything were stored.
//
// The unit must be ordered after dbus.service, or the bus will be gone when the machine shuts down.
func Restarting(ctx context.Context) (again bool, stored int, err error) {
	again, stored, err = restarting(ctx)
	if err != nil {
		return true, math.MaxInt, fmt.Errorf("ask systemd whether this is a restart: %w", err)
	}
	return again, stored, nil
}

func restarting(ctx context.Context) (again bool, stored int, err error) {
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return false, 0, err
	}
	defer bus.Close()
	get := func(path dbus.ObjectPath, kind, name string, value any) error {
		var v dbus.Variant
		if err := bus.Object(busName, path).CallWithContext(ctx, property, 0, busName+"."+kind,
			name).Store(&v); err != nil {
			return err
		}
		return v.Store(value)
	}
	var unit dbus.ObjectPath
	const ours = uint32(0) // the process that asks
	if err := bus.Object(busName, busPath).CallWithContext(ctx, busName+".Manager.GetUnitByPID", 0,
		ours).Store(&unit); err != nil {
		return false, 0, err
	}
	var files uint32
	if err := get(unit, "Service", "NFileDescriptorStore", &files); err != nil {
		return false, 0, err
	}
	var job struct {
		ID   uint32
		Path dbus.ObjectPath
	}
	var kind string
	for range mostJobs {
		if err = get(unit, "Unit", "Job", &job); err != nil || job.ID == 0 {
			break
		}
		err = get(job.Path, "Job", "JobType", &kind)
		if e, isGone := errors.AsType[dbus.Error](err); !isGone || e.Name != unknownObject {
			break
		} // it has ended meanwhile, and there may be another one
	}
	if err != nil {
		return false, 0, err
	}
	if job.ID == 0 { // somebody has sent a signal: what happens next is the unit's policy for a clean end
		var policy string
		if err := get(unit, "Service", "Restart", &policy); err != nil {
			return false, 0, err
		}
		return policy == "always" || policy == "on-success", int(files), nil
	}
	return kind != "stop", int(files), nil // a start that has overtaken a stop is a restart too
}
