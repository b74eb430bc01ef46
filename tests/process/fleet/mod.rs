//! Several GWMs over the real etcd.

mod balancers;
mod bed;
mod schedules;
mod together;
