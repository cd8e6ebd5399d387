//! Log records in one line: `info!("opened backend db", "path" => path, "took" => took)`.
//!
//! Values are anything that [`crate::log::Value`] is made from.

macro_rules! define {
    ($dollar:tt $macro_name:ident $level:ident) => {
        macro_rules! $macro_name {
            ($dollar msg:expr $dollar(, $dollar key:expr => $dollar value:expr)* $dollar(,)?) => {
                $crate::log::$level($dollar msg, &[$dollar(($dollar key, $crate::log::Value::from($dollar value))),*])
            };
        }
        pub(crate) use $macro_name as $level;
    };
}

define!($ log_info info);
define!($ log_warn warn);
define!($ log_error error);
